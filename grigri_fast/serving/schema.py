"""What ``POST /predict`` takes and returns, as an OpenAPI 3.1 document (https://spec.openapis.org)."""

from typing import Any

from .. import __version__

_BY_CLASS: dict[str, Any] = {
    "type": "object",
    "additionalProperties": {"type": "number", "minimum": 0, "maximum": 1},
}
_ERROR: dict[str, Any] = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": {"type": "string", "description": "The reason, in a sentence."}},
}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


SCHEMA: dict[str, Any] = {
    "openapi": "3.1.0",
    "info": {"title": "grigri-fast serve", "version": __version__},
    "security": [{"token": []}],
    "paths": {
        "/predict": {
            "post": {
                "summary": "Label one photograph.",
                "requestBody": {
                    "required": True,
                    "description": "The bytes of an image file; its first bytes say which kind.",
                    "content": {"image/*": {}, "application/octet-stream": {}},
                },
                "responses": {
                    "200": {
                        "description": "The photograph's labels.",
                        "content": _json(
                            {
                                "type": "object",
                                "required": ["labels", "probabilities", "thresholds"],
                                "properties": {
                                    "labels": {
                                        "description": "Classes that reach their threshold.",
                                        "type": "array",
                                        "items": {"type": "string"},
                                    },
                                    "probabilities": _BY_CLASS,
                                    "thresholds": _BY_CLASS,
                                },
                            }
                        ),
                    },
                    "400": {"description": "No body.", "content": _json(_ERROR)},
                    "401": {"description": "The token is missing or wrong."},
                    "413": {"description": "The body is too large."},
                    "422": {
                        "description": "The file is no image that can be used.",
                        "content": _json(_ERROR),
                    },
                },
            }
        }
    },
    "components": {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
}
