"""A small, faithful sample of each layout of labels: as its makers or programs write it.

``benchmarks/fuzz.py`` damages them, too.
"""

import io
import json
from dataclasses import dataclass
from pathlib import Path

CHEXPERT_HEADER = (
    "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Enlarged Cardiomediastinum,Cardiomegaly,"
    "Lung Opacity,Lung Lesion,Edema,Consolidation,Pneumonia,Atelectasis,Pneumothorax,"
    "Pleural Effusion,Pleural Other,Fracture,Support Devices\n"
)
XRAY14_HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],\n"
)
OPEN_IMAGES_HEADER = "ImageID,Source,LabelName,Confidence\n"


@dataclass(frozen=True)
class Sample:
    """Label files by their paths (texts or bytes), empty images, what to name as DATA, and how."""

    files: dict[str, str | bytes]
    images: tuple[str, ...]
    data: str = "."
    layout: str | None = None  # None: it is found out

    def write(self, folder: Path) -> Path:
        """Write all into a folder; return what to name as DATA."""
        for name, content in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        for name in self.images:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return folder / self.data


def csv_of(*rows: str) -> str:
    """Return rows as the text of a CSV."""
    return "".join(f"{row}\n" for row in rows)


# ------------------------------------------------------------------------------ medical tables

CHEXPERT = Sample(
    {
        "CheXpert-v1.0-small/train.csv": CHEXPERT_HEADER
        + csv_of(
            "CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg,Female,68,Frontal,AP,"
            "1.0,,,,,,,,,0.0,,,,1.0",
            "CheXpert-v1.0-small/train/patient00002/study2/view1_frontal.jpg,Female,87,Frontal,AP,"
            ",,-1.0,1.0,,-1.0,-1.0,,-1.0,,-1.0,,1.0,",
            "CheXpert-v1.0-small/train/patient00002/study1/view2_lateral.jpg,Female,83,Lateral,,"
            ",,,1.0,,,-1.0,,,,,,1.0,",
        ),
        "CheXpert-v1.0-small/valid.csv": CHEXPERT_HEADER
        + csv_of(
            "CheXpert-v1.0-small/valid/patient64541/study1/view1_frontal.jpg,Male,73,Frontal,AP,"
            "0.0,1.0,1.0,1.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0",
        ),
    },
    (
        "CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg",
        "CheXpert-v1.0-small/train/patient00002/study2/view1_frontal.jpg",
        "CheXpert-v1.0-small/train/patient00002/study1/view2_lateral.jpg",
        "CheXpert-v1.0-small/valid/patient64541/study1/view1_frontal.jpg",
    ),
    "CheXpert-v1.0-small",
)
XRAY14 = Sample(
    {
        "Data_Entry_2017.csv": XRAY14_HEADER
        + csv_of(
            "00000001_000.png,Cardiomegaly,0,00001,058Y,M,PA,2682,2749,0.143,0.143,",
            "00000001_001.png,Cardiomegaly|Emphysema,1,00001,058Y,M,PA,2894,2729,0.143,0.143,",
            "00000002_000.png,No Finding,0,00002,081Y,M,PA,2500,2048,0.171,0.171,",
            "00000003_000.png,Hernia|Pleural_Thickening,0,00003,081Y,F,PA,2582,2991,0.143,0.143,",
        ),
        "BBox_List_2017.csv": "Image Index,Finding Label,Bbox [x,y,w,h],,,\n"
        "00000001_001.png,Cardiomegaly,225.0,547.0,86.7,79.1,,,\n",
        "train_val_list.txt": "00000001_000.png\n00000001_001.png\n00000002_000.png\n",
        "test_list.txt": "00000003_000.png\n",
    },
    (
        "images_001/images/00000001_000.png",
        "images_001/images/00000001_001.png",
        "images_001/images/00000002_000.png",
        "images_002/images/00000003_000.png",
    ),
)

# -------------------------------------------------------------------------------- Open Images

OPEN_IMAGES = Sample(
    {
        "train-annotations-human-imagelabels.csv": OPEN_IMAGES_HEADER
        + csv_of(
            "000026e7ee790996,verification,/m/04hgtk,0",
            "000026e7ee790996,verification,/m/07j7r,1",
            "000026e7ee790996,crowdsource-verification,/m/01g317,1",
            "000062a39995e348,verification,/m/01g317,0",
            "000062a39995e348,verification,/m/07j7r,1",
        ),
        "validation-annotations-human-imagelabels.csv": OPEN_IMAGES_HEADER
        + csv_of("0001eeaf4aed83f9,verification,/m/0cmf2,1"),
        "test-annotations-human-imagelabels.csv": OPEN_IMAGES_HEADER
        + csv_of(
            "000a1249af2bc5f0,verification,/m/01g317,1",
            "000a1249af2bc5f0,verification,/m/0cmf2,0",
        ),
        "class-descriptions.csv": csv_of(
            "/m/01g317,Person", "/m/04hgtk,Human head", "/m/07j7r,Tree", "/m/0cmf2,Airplane"
        ),
    },
    (
        "train/000026e7ee790996.jpg",
        "train/000062a39995e348.jpg",
        "validation/0001eeaf4aed83f9.jpg",
        "test/000a1249af2bc5f0.jpg",
    ),
)

# ----------------------------------------------------------- Planet, fastai, Roboflow, Vertex AI

PLANET = Sample(
    {
        "train_v2.csv": csv_of(
            "image_name,tags",
            "train_0,haze primary",
            "train_1,agriculture clear primary water",
            "train_2,clear primary",
        ),
        "sample_submission_v2.csv": csv_of("image_name,tags", "test_0,primary clear"),
    },
    ("train-jpg/train_0.jpg", "train-jpg/train_1.jpg", "train-jpg/train_2.jpg",
     "test-jpg/test_0.jpg"),
)  # fmt: skip
FASTAI = Sample(
    {
        "train.csv": csv_of(
            "fname,labels,is_valid",
            "000005.jpg,chair,True",
            "000007.jpg,car,True",
            "000009.jpg,horse person,False",
            "000012.jpg,car,False",
        )
    },
    tuple(f"train/0000{n}.jpg" for n in ("05", "07", "09", "12")),
)
ROBOFLOW = Sample(
    {
        "train/_classes.csv": csv_of(
            "filename, cat, dog, date", "a_jpg.rf.11.jpg, 1, 0, 0", "b_jpg.rf.12.jpg, 1, 1, 1"
        ),
        "valid/_classes.csv": csv_of("filename, cat, dog, date", "a_jpg.rf.21.jpg, 0, 0, 0"),
        "test/_classes.csv": csv_of("filename, cat, dog, date", "c_jpg.rf.31.jpg, 0, 1, 0"),
        "README.roboflow.txt": "pets - v1\n",
    },
    ("train/a_jpg.rf.11.jpg", "train/b_jpg.rf.12.jpg", "valid/a_jpg.rf.21.jpg",
     "test/c_jpg.rf.31.jpg"),
)  # fmt: skip
VERTEX = Sample(
    {
        "import.csv": csv_of(
            "TRAINING,gs://my_bucket/pets/a.jpg,cat,dog",
            "TEST,gs://my_bucket/pets/b.jpg,cat",
            "VALIDATION,gs://my_bucket/pets/c.jpg,hot dog",
            "UNASSIGNED,gs://my_bucket/pets/d.jpg",
        )
    },
    ("pets/a.jpg", "pets/b.jpg", "pets/c.jpg", "pets/d.jpg"),
    "import.csv",
)


def _vertex_object(name: str, use: str, *labels: str) -> str:
    return json.dumps(
        {
            "imageGcsUri": f"gs://bucket/{name}",
            "classificationAnnotations": [{"displayName": label} for label in labels],
            "dataItemResourceLabels": {"aiplatform.googleapis.com/ml_use": use},
        }
    )


VERTEX_JSONL = Sample(
    {
        "import.jsonl": csv_of(
            _vertex_object("a.jpg", "training", "cat", "dog"),
            _vertex_object("b.jpg", "test", "cat"),
            _vertex_object("c.jpg", "training"),
        )
    },
    ("images/a.jpg", "images/b.jpg", "images/c.jpg"),
    "import.jsonl",
)

# ---------------------------------------------------------------------------- Hugging Face

CARD = """---
license: mit
dataset_info:
  features:
  - name: image
    dtype: image
  - name: label
    dtype:
      class_label:
        names:
          '0': cat
          '1': hot dog
  - name: labels
    sequence:
      class_label:
        names: {'0': cat, '1': hot dog, '2': sky}
  splits:
  - name: train
---
# Pets
"""
METADATA = Sample(
    {
        "README.md": CARD,
        "train/metadata.csv": csv_of("file_name,label", "0001.png,0", "0002.png,1"),
        "test/metadata.csv": csv_of("file_name,label", "0001.png,1"),
    },
    ("train/0001.png", "train/0002.png", "test/0001.png"),
)
METADATA_JSONL = Sample(
    {
        "README.md": CARD,
        "metadata.jsonl": csv_of(
            json.dumps({"file_name": "0001.png", "labels": [0, 2]}),
            json.dumps({"file_name": "0002.png", "labels": []}),
            json.dumps({"file_name": "b/0003.png", "labels": [1]}),
        ),
    },
    ("0001.png", "0002.png", "b/0003.png"),
)

# -------------------------------------------------------------------------------- plain tables

ONE_HOT = Sample(
    {"l.csv": csv_of("image,cat,dog,sky", "a.jpg,1,0,1", "b.jpg,0,1,0", "c.jpg,0,0,0")},
    ("a.jpg", "b.jpg", "c.jpg"),
    "l.csv",
)
PLUS_MINUS = Sample(
    {"l.csv": csv_of("image,cat,dog", "a.jpg,1,-1", "b.jpg,-1,0", "c.jpg,1,1")},
    ("a.jpg", "b.jpg", "c.jpg"),
    "l.csv",
    "plus-minus",
)
UNCERTAIN = Sample(
    {"l.csv": csv_of("image,cat,dog", "a.jpg,1,-1", "b.jpg,0,0", "c.jpg,1,1")},
    ("a.jpg", "b.jpg", "c.jpg"),
    "l.csv",
    "uncertain",
)
LABEL_COLUMN = Sample(
    {"l.csv": csv_of("image,labels", "a.jpg,cat|hot dog", "b.jpg,", "c.jpg,cat", "d.jpg,sky")},
    ("a.jpg", "b.jpg", "c.jpg", "d.jpg"),
    "l.csv",
)
LONG = Sample(
    {"l.csv": csv_of("photo,tag", "a.jpg,cat", "a.jpg,dog", "b.jpg,cat", "c.jpg,sky",
                     "c.jpg,dog")},
    ("a.jpg", "b.jpg", "c.jpg"),
    "l.csv",
)  # fmt: skip
LONG_VALUES = Sample(
    {"l.csv": csv_of("image,label,present", "a.jpg,cat,1", "a.jpg,dog,0", "b.jpg,cat,0",
                     "b.jpg,sky,1")},
    ("a.jpg", "b.jpg"),
    "l.csv",
)  # fmt: skip
JSON_LINES = Sample(
    {
        "l.jsonl": csv_of(
            '{"file_name": "a.jpg", "labels": ["cat", "hot dog"]}',
            '{"file_name": "b.jpg", "labels": []}',
            '{"file_name": "c.jpg", "labels": ["cat"]}',
        )
    },
    ("a.jpg", "b.jpg", "c.jpg"),
    "l.jsonl",
)
PREDICTIONS = Sample(
    {"l.csv": csv_of("image,labels,error,cat,hot dog", "a.jpg,cat|hot dog,,0.9,0.8",
                     "b.jpg,,,0.1,0.2", "c.jpg,,cannot be decoded,,")},
    ("a.jpg", "b.jpg", "c.jpg"),
    "l.csv",
)  # fmt: skip
ANNOTATIONS = Sample(
    {"annotations/cat.txt": "1\n3\n", "annotations/dog.txt": "2\n3\n"},
    ("images/im1.jpg", "images/im2.jpg", "images/im3.jpg"),
)


def workbook(*rows: tuple[object, ...], more: tuple[str, ...] = ()) -> bytes:
    """Return an Excel workbook with rows on its first sheet, and other empty or full sheets."""
    import openpyxl

    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    for name in more:
        sheet = book.create_sheet(name.removeprefix("full "))
        if name.startswith("full "):
            sheet.append(("image", "labels"))
            sheet.append(("z.jpg", "zebra"))
    file = io.BytesIO()
    book.save(file)
    return file.getvalue()


def parquet(**columns: list[object]) -> bytes:
    """Return a Parquet file of columns."""
    import pyarrow
    import pyarrow.parquet

    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), file)
    return file.getvalue()


def tables() -> dict[str, Sample]:
    """Return the samples of tables, by name."""
    excel = workbook(("image", "cat", "dog"), ("a.jpg", 1.0, 0.0), ("b.jpg", 0, 1))
    arrow = parquet(file_name=["a.jpg", "b.jpg"], labels=[["cat", "sky"], []])
    return {
        "one-hot": ONE_HOT, "plus-minus": PLUS_MINUS, "uncertain": UNCERTAIN,
        "label-column": LABEL_COLUMN, "long": LONG,
        "long-values": LONG_VALUES, "json-lines": JSON_LINES, "predictions": PREDICTIONS,
        "annotations": ANNOTATIONS, "chexpert": CHEXPERT, "chest-xray14": XRAY14,
        "open-images": OPEN_IMAGES, "planet": PLANET, "fastai": FASTAI, "roboflow": ROBOFLOW,
        "vertex": VERTEX, "vertex-jsonl": VERTEX_JSONL, "metadata": METADATA,
        "metadata-jsonl": METADATA_JSONL,
        "xlsx": Sample({"l.xlsx": excel}, ("a.jpg", "b.jpg"), "l.xlsx"),
        "parquet": Sample({"l.parquet": arrow}, ("a.jpg", "b.jpg"), "l.parquet"),
    }  # fmt: skip


# --------------------------------------------------------------------- whole-folder layouts


def _json(**lists: list[object]) -> str:
    """Return JSON with an element of each list on a line."""
    rows = (
        f'"{key}": [\n' + ",\n".join(json.dumps(value) for value in values) + "\n]"
        for key, values in lists.items()
    )
    return "{\n" + ",\n".join(rows) + "\n}\n"


COCO = Sample(
    {
        "annotations/instances_train2017.json": _json(
            images=[{"file_name": f"000000{n}.jpg", "id": n} for n in (391895, 522418, 184613)],
            annotations=[
                {"image_id": 391895, "category_id": 18, "iscrowd": 0, "id": 1},
                {"image_id": 391895, "category_id": 1, "iscrowd": 1, "id": 2},
                {"image_id": 184613, "category_id": 1, "iscrowd": 0, "id": 4},
            ],
            categories=[{"id": 1, "name": "person"}, {"id": 18, "name": "dog"}],
        ),
        "annotations/instances_val2017.json": _json(
            images=[{"file_name": "000000397133.jpg", "id": 397133}],
            annotations=[{"image_id": 397133, "category_id": 18, "iscrowd": 0, "id": 9}],
            categories=[{"id": 1, "name": "person"}, {"id": 18, "name": "dog"}],
        ),
    },
    (
        *(f"train2017/000000{n}.jpg" for n in (391895, 522418, 184613)),
        "val2017/000000397133.jpg",
    ),
)
VOC = Sample(
    {
        "ImageSets/Main/aeroplane_train.txt": "2007_000027 -1\n2007_000032  1\n2007_000033  0\n",
        "ImageSets/Main/aeroplane_val.txt": "2007_000042 -1\n",
        "ImageSets/Main/person_train.txt": "2007_000027  1\n2007_000032  1\n2007_000033 -1\n",
        "ImageSets/Main/person_val.txt": "2007_000042 -1\n",
        "ImageSets/Main/train.txt": "2007_000027\n2007_000032\n2007_000033\n",
        "ImageSets/Main/val.txt": "2007_000042\n",
    },
    tuple(f"JPEGImages/2007_0000{n}.jpg" for n in (27, 32, 33, 42)),
)


def _voc_xml(stem: str, *names: str) -> str:
    things = "".join(
        f"<object><name>{name}</name><difficult>0</difficult></object>" for name in names
    )
    return f"<annotation>\n<filename>{stem}.jpg</filename>\n{things}\n</annotation>\n"


VOC_BESIDE = Sample(
    {
        "train/im_27.xml": _voc_xml("im_27", "person"),
        "valid/im_32.xml": _voc_xml("im_32", "aeroplane", "person"),
    },
    ("train/im_27.jpg", "valid/im_32.jpg"),
)
VOC_XML = Sample(
    {
        "Annotations/2007_000027.xml": _voc_xml("2007_000027", "person"),
        "Annotations/2007_000032.xml": _voc_xml("2007_000032", "aeroplane", "person"),
    },
    ("JPEGImages/2007_000027.jpg", "JPEGImages/2007_000032.jpg"),
)
CVAT = Sample(
    {
        "annotations.xml": """<?xml version="1.0" encoding="utf-8"?>
<annotations>
<version>1.1</version>
<meta><project><labels>
<label><name>cat</name></label>
<label><name>dog</name></label>
</labels></project></meta>
<image id="0" name="aa.jpg" subset="Train"><tag label="cat"></tag><box label="dog"></box></image>
<image id="1" name="deep/bb.jpg" subset="Train"></image>
<image id="2" name="cc.jpg" subset="Validation"><polygon label="cat" points="1,2"></polygon></image>
</annotations>
"""
    },
    ("images/Train/aa.jpg", "images/Train/deep/bb.jpg", "images/Validation/cc.jpg"),
)
NUS_WIDE = Sample(
    {
        "ImageList/Imagelist.txt": "actor\\0001_21.jpg\nactor\\0002_17.jpg\nzebra\\0001_99.jpg\n",
        "ImageList/TrainImagelist.txt": "zebra\\0001_99.jpg\nactor\\0001_21.jpg\n",
        "ImageList/TestImagelist.txt": "actor\\0002_17.jpg\n",
        "Groundtruth/AllLabels/Labels_sky.txt": "1\n0\n1\n",
        "Groundtruth/AllLabels/Labels_zebra.txt": "0\n0\n1\n",
    },
    ("Flickr/actor/0001_21.jpg", "Flickr/actor/0002_17.jpg", "Flickr/zebra/0001_99.jpg"),
)
CELEBA = Sample(
    {
        "Anno/list_attr_celeba.txt": "3\n5_o_Clock_Shadow Arched_Eyebrows Male\n"
        "000001.jpg -1  1 -1\n000002.jpg  1 -1  1\n000003.jpg -1 -1 -1\n",
        "Eval/list_eval_partition.txt": "000001.jpg 0\n000002.jpg 1\n000003.jpg 2\n",
    },
    tuple(f"Img/img_align_celeba/00000{n}.jpg" for n in (1, 2, 3)),
)
CELEBA_KAGGLE = Sample(
    {
        "list_attr_celeba.csv": "image_id,5_o_Clock_Shadow,Arched_Eyebrows,Male\n"
        "000001.jpg,-1,1,-1\n000002.jpg,1,-1,1\n000003.jpg,-1,-1,-1\n",
        "list_eval_partition.csv": "image_id,partition\n000001.jpg,0\n000002.jpg,1\n000003.jpg,2\n",
    },
    tuple(f"img_align_celeba/00000{n}.jpg" for n in (1, 2, 3)),
)


def _task(number: int, name: str, *labels: str) -> str:
    result = {"value": {"choices": list(labels)}, "from_name": "choice", "to_name": "image",
              "type": "choices"}  # fmt: skip
    annotations = [{"id": number, "result": [result] if labels else [], "was_cancelled": False}]
    data = {"image": f"/data/upload/5/{name}"}
    return json.dumps({"id": number, "annotations": annotations, "data": data})


LABEL_STUDIO = Sample(
    {
        "export.json": "[\n"
        + ",\n".join(
            (
                _task(1, "0a1b2c3d-aa.jpg", "cat", "indoor"),
                _task(2, "1a1b2c3d-bb.jpg", "dog"),
                _task(5, "4a1b2c3d-ee.jpg"),
            )
        )
        + "\n]\n"
    },
    ("aa.jpg", "bb.jpg", "ee.jpg"),
    "export.json",
)
LABEL_STUDIO_MIN = Sample(
    {
        "export.json": """[
{"image": "/data/upload/5/0a1b2c3d-aa.jpg", "id": 1, "choice": {"choices": ["cat", "indoor"]},
"annotator": 1, "annotation_id": 7, "updated_at": "2026-01-01"},
{"image": "/data/upload/5/1a1b2c3d-bb.jpg", "id": 2, "choice": "dog",
"annotator": 1, "annotation_id": 8, "updated_at": "2026-01-01"}
]
"""
    },
    ("aa.jpg", "bb.jpg"),
    "export.json",
)
_ABOUT = "annotator,annotation_id,created_at,updated_at,lead_time"
LABEL_STUDIO_CSV = Sample(
    {
        "export.csv": csv_of(
            f"image,id,choice,{_ABOUT}",
            '/data/upload/5/0a1b2c3d-aa.jpg,1,"{""choices"": [""cat"", ""indoor""]}",1,7,'
            "2026-01-01,2026-01-01,3.5",
            "/data/upload/5/1a1b2c3d-bb.jpg,2,dog,1,8,2026-01-01,2026-01-01,3.5",
        )
    },
    ("aa.jpg", "bb.jpg"),
    "export.csv",
)
YOLO = Sample(
    {
        "data.yaml": "path: .\ntrain: images/train\nval: images/val\nnames:\n  0: person\n"
        "  1: traffic light\n  2: cat\n",
        "labels/train/aa.txt": "2 0.5 0.5 0.25 0.25\n0 0.1 0.1 0.2 0.2\n",
        "labels/val/dd.txt": "1 0.1 0.1 0.2 0.2\n",
    },
    ("images/train/aa.jpg", "images/train/bb.png", "images/val/dd.jpg"),
)


def hugging_face() -> dict[str, Sample]:
    """Return samples of Hugging Face's datasets, with the images beside the files, by name."""
    import pyarrow
    import pyarrow.ipc
    import pyarrow.parquet

    names = ("aa.jpg", "bb.jpg", "cc.jpg")
    of_class = {"names": ["cat", "hot dog", "sky"], "_type": "ClassLabel"}
    features = {"image": {"_type": "Image"}, "labels": {"feature": of_class, "_type": "List"}}
    images = pyarrow.array(
        [{"bytes": None, "path": name} for name in names],
        pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()}),
    )
    table = pyarrow.table({"image": images, "labels": [[0, 2], [], [1]]})
    table = table.replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": features}})}
    )
    arrow, hub = io.BytesIO(), io.BytesIO()
    with pyarrow.ipc.new_stream(arrow, table.schema) as stream:
        stream.write_table(table)
    pyarrow.parquet.write_table(table, hub)
    state = json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}, indent=2)
    saved = {
        "state.json": state,
        "dataset_info.json": json.dumps({"features": features}, indent=2),
        "data-00000-of-00001.arrow": arrow.getvalue(),
    }
    return {
        "hugging-face": Sample(saved, names),
        "hugging-face-hub": Sample({"train-00000-of-00001.parquet": hub.getvalue()}, tuple(names)),
    }


def folders() -> dict[str, Sample]:
    """Return the samples of layouts of whole folders, by name."""
    return {
        **hugging_face(), "label-studio-min": LABEL_STUDIO_MIN, "voc-beside": VOC_BESIDE,
        "coco": COCO, "voc": VOC, "voc-xml": VOC_XML, "cvat": CVAT, "nus-wide": NUS_WIDE,
        "celeba": CELEBA, "celeba-kaggle": CELEBA_KAGGLE, "label-studio": LABEL_STUDIO,
        "label-studio-csv": LABEL_STUDIO_CSV, "yolo": YOLO,
    }  # fmt: skip
