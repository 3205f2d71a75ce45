# docker build -t grigri-fast . && docker run --rm --gpus all --shm-size 1g --user "$(id -u)" \
#     -v "$PWD:/photographs" grigri-fast train my-photos
# (without a GPU leave --gpus out)
FROM python:3.11-slim
COPY constraints.txt pyproject.toml README.md LICENSE /src/
COPY grigri_fast /src/grigri_fast
RUN pip install --no-cache-dir -c /src/constraints.txt "/src[heif,onnx,tables,tensorboard]"
ENV XDG_CACHE_HOME=/photographs/.cache
WORKDIR /photographs
ENTRYPOINT ["grigri-fast"]
