"""The weights that others have published for models of this project: where they are, and what they reach."""

from typing import NamedTuple

_DRIVE = "https://drive.usercontent.google.com/download?export=download&confirm=t&id="
_OPENMMLAB = "https://download.openmmlab.com/mmtracking/vid"


class PublishedModel(NamedTuple):
    """Weights of another code, and the configuration that is that code's model.

    Args:
        name: of the configuration, without "configs/" and ".yaml".
        alias: another name.
        source: whose weights they are, a name of `vod2.checkpoint.SOURCES`.
        url: of the file.
        page: where the publisher lists it.
        ap50: mAP on ImageNet VID at IoU .5 that the publisher reports, percent.
        license: of the publisher's code. ImageNet, which the weights were trained on, has terms of its own.
        sha256: the first digits of the file's SHA-256, where the publisher states them; "" where not.
    """

    name: str
    alias: str
    source: str
    url: str
    page: str
    ap50: float
    license: str
    sha256: str = ""

    @property
    def config(self) -> str:
        """A name that `load_config` takes."""
        return f"{self.name}.yaml"

    @property
    def file(self) -> str:
        """What the downloaded file is called in the cache."""
        return f"{self.alias}.pth"


def _mega(name: str, drive_id: str, ap50: float) -> PublishedModel:
    page = "https://github.com/Scalsol/mega.pytorch"
    license = "BSD 2-Clause, for non-commercial purposes"
    return PublishedModel(f"published/{name}", f"{name}_mega", "mega", _DRIVE + drive_id, page, ap50, license)


def _mmtracking(method: str, depth: str, folder: str, stem: str, file: str, ap50: float) -> PublishedModel:
    """`stem` names the model, `file` is the date and hash that end the name of its file."""
    return PublishedModel(
        name=f"published/{method}_mmtracking_{depth}",
        alias=f"{method}_{depth}_mmtracking",
        source="mmtracking-selsa",
        url=f"{_OPENMMLAB}/{folder}/{stem}/{stem}_{file}.pth",
        page=f"https://github.com/open-mmlab/mmtracking/tree/master/configs/vid/{folder}",
        ap50=ap50,
        license="Apache-2.0",
        # OpenMMLab's names of files end in the first digits of their SHA-256.
        sha256=file.rpartition("-")[2],
    )


def _selsa(depth: str, file: str, ap50: float) -> PublishedModel:
    return _mmtracking("SELSA", depth, "selsa", f"selsa_faster_rcnn_{depth.lower()}_dc5_1x_imagenetvid", file, ap50)


def _temporal(depth: str, file: str, ap50: float) -> PublishedModel:
    stem = f"selsa_troialign_faster_rcnn_{depth.lower()}_dc5_7e_imagenetvid"
    return _mmtracking("TROIAlign", depth, "temporal_roi_align", stem, file, ap50)


PUBLISHED = (
    _mega("FasterRCNN_R101", "1W17f9GC60rHU47lUeOEfU--Ra-LTw3Tq", 76.7),
    _mega("FasterRCNN_R50", "1i39MwpP46x61eHLkRXMzcKhpeKZhkgA6", 71.8),
    _mega("DFF_R101", "1Dn_RQRlA7z2XkRRS4XERUW_UH9jlNvMo", 75.0),
    _mega("DFF_R50", "1wl9Sheg46ecJOWzl1Uy4BWaCDRtSt51_", 70.4),
    _mega("FGFA_R101", "1yVgy7_ff1xVD1SooqbcK-OzKMgPpUcg4", 78.0),
    _mega("FGFA_R50", "1nJ6CbUG_wW_gvMs193b7f0c1QLnXqAzO", 74.3),
    _mega("RDN_Base_R101", "1jM5LqlVtCGjKH-MocTCjzFIVjqCyng8M", 81.1),
    _mega("RDN_Base_R50", "10k70lzSrxXiLWYx8tmX3RNuOQ2x1X0k8", 76.7),
    _mega("RDN_R101", "1FgoOwj-GFAMVn2hkSFKnxn5fKWPSxlUF", 81.7),
    _mega("MEGA_R101", "1ZnAdFafF1vW9Lnpw-RPF1AD_csw61lBY", 82.9),
    _mega("MEGA_R50", "1EZzpBuCfI75bsd_gxK1495tXlh0K_34H", 77.3),
    _selsa("R50", "20201227_204835-2f5a4952", 78.4),
    _selsa("R101", "20201218_172724-aa961bcc", 81.5),
    _selsa("X101", "20210825_205641-10252965", 83.1),
    _temporal("R50", "20210820_162714-939fd657", 79.8),
    _temporal("R101", "20210822_111621-22cb96b9", 82.6),
    _temporal("X101", "20210822_164036-4471ac42", 84.1),
)
"""Every model whose published weights `vod2.model_zoo` can fetch and convert."""
