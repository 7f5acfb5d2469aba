"""Figures printed in papers, for the sets of quality/runner.py and slowmo/runner.py; none of them was measured here.

Every row names its paper and its protocol. A row belongs to the set whose protocol it shares; where the clips or the
degradation differ, the row says so.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Printed:
    """One row of a paper's table; None for a figure that the paper does not print."""

    set: str
    system: str
    source: str
    psnr: float | None = None
    psnr_y: float | None = None
    ssim_vh: float | None = None
    ssim_vt: float | None = None
    ssim_y: float | None = None


VID4_BD = "Fang et al. (SECNet), Table III: Vid4, blur sigma 1.5, RGB, border 8"
VOXCELEB = "Fang et al. (SECNet), Table II; other clips: VoxCeleb faces 256x256, blur sigma 1.5, RGB"
VID4_BI_Y = "Zhang et al. (TMP, arXiv 2312.09909): Vid4, bicubic reduction, Y; border may differ"
OTHER_BLUR = "Zhang et al. (TMP, arXiv 2312.09909); other protocol: blur sigma 1.6, Y; border may differ"
DISSERTATION = "Xiang, dissertation, Table 6.1: Vid4, all frames, Y"
FIRST_VERSION = "Xiang et al. (Zooming Slow-Mo, CVPR 2020): Vid4, all frames, Y"
COMPRESSED = "Wang et al. (CAVSR, CVPR 2023), poster: Vid4, BD, libx264, Y; border and preset may differ"
WITH_JPEG = "Xiang, dissertation, Table 6.4: Vid4, JPEG after the reduction, all frames, Y"
WITH_NOISE = "Xiang, dissertation, Table 6.3; other noise: Gaussian and 10 % salt and pepper; Vid4, all frames, Y"
LATER = "later work; its own account, Vid4, Y"

ROWS = (
    Printed("vid4-BD", "bicubic", VID4_BD, 22.18, None, 0.6125, 0.6860),
    Printed("vid4-BD", "VESPCN, trained by them", VID4_BD, 23.44, None, 0.7143, 0.7668),
    Printed("vid4-BD", "VESPCN, as released", VID4_BD, 23.66, None, 0.7038, 0.7612),
    Printed("vid4-BD", "SPMC, trained by them", VID4_BD, 24.18, None, 0.7670, 0.8069),
    Printed("vid4-BD", "SPMC, as released", VID4_BD, 24.51, None, 0.7583, 0.8025),
    Printed("vid4-BD", "FRVSR, trained by them", VID4_BD, 24.21, None, 0.7742, 0.8141),
    Printed("vid4-BD", "DUF, as released", VID4_BD, 24.23, None, 0.8017, 0.8328),
    Printed("vid4-BD", "LFFNet", VID4_BD, 23.96, None, 0.7552, 0.7987),
    Printed("vid4-BD", "SECNet", VID4_BD, 25.02, None, 0.8179, 0.8487),
    Printed("vid4-BD", "FRVSR", OTHER_BLUR, None, 26.69),
    Printed("vid4-BD", "TMP", OTHER_BLUR, None, 27.61),
    Printed("vid4-BD", "RRN", OTHER_BLUR, None, 27.69),
    Printed("vid4-BI", "bicubic", VID4_BI_Y, None, 23.78),
    Printed("vid4-BI", "CKBG", VID4_BI_Y, None, 26.34),
    Printed("vid4-BI", "TMP", VID4_BI_Y, None, 27.10),
    Printed("faces-BD", "bicubic", VOXCELEB, 29.56, None, 0.8776, 0.8957),
    Printed("faces-BD", "FRVSR", VOXCELEB, 34.33, None, 0.9458, 0.9493),
    Printed("faces-BD", "LFFNet", VOXCELEB, 33.76, None, 0.9398, 0.9435),
    Printed("faces-BD", "SECNet", VOXCELEB, 35.26, None, 0.9550, 0.9572),
    *(
        Printed(f"vid4-BD-crf{crf}", system, COMPRESSED, psnr_y=psnr_y, ssim_y=ssim_y)
        for system, figures in (
            ("EDVR", ((26.53, 0.794), (24.76, 0.694), (22.39, 0.544))),
            ("RealBasicVSR", ((26.94, 0.813), (24.87, 0.701), (22.39, 0.531))),
            ("COMISR", ((26.66, 0.801), (25.14, 0.713), (22.62, 0.546))),
            ("FTVSR", ((27.50, 0.826), (25.51, 0.732), (22.79, 0.561))),
            ("CAVSR without modulation or metadata", ((26.76, None), (24.54, None), (22.06, None))),
            ("CAVSR", ((27.42, 0.833), (25.65, 0.742), (22.84, 0.574))),
        )
        for crf, (psnr_y, ssim_y) in zip((15, 25, 35), figures, strict=True)
    ),
    *(
        Printed("vid4-BI-x2", system, source, psnr_y=psnr_y, ssim_y=ssim_y)
        for system, source, psnr_y, ssim_y in (
            ("SuperSloMo, bicubic", DISSERTATION, 22.84, 0.5772),
            ("SuperSloMo, RCAN", DISSERTATION, 23.80, 0.6397),
            ("SuperSloMo, RBPN", DISSERTATION, 23.76, 0.6362),
            ("SuperSloMo, EDVR", DISSERTATION, 24.40, 0.6706),
            ("SepConv, bicubic", DISSERTATION, 23.51, 0.6273),
            ("SepConv, RCAN", DISSERTATION, 24.92, 0.7236),
            ("SepConv, RBPN", DISSERTATION, 26.08, 0.7751),
            ("SepConv, EDVR", DISSERTATION, 25.93, 0.7792),
            ("DAIN, bicubic", DISSERTATION, 23.55, 0.6268),
            ("DAIN, RCAN", DISSERTATION, 25.03, 0.7261),
            ("DAIN, RBPN", DISSERTATION, 25.96, 0.7784),
            ("DAIN, EDVR", DISSERTATION, 26.12, 0.7836),
            ("Zooming SlowMo, first version", FIRST_VERSION, 26.31, 0.7976),
            ("Zooming SlowMo", DISSERTATION, 26.49, 0.8028),
            ("TMNet", LATER, 26.43, None),
            ("RSTT-S", LATER, 26.29, None),
        )
    ),
    *(
        Printed(f"vid4-BI-jpeg-{quality}-x2", system, WITH_JPEG, psnr_y=psnr_y, ssim_y=ssim_y)
        for quality, *figures in (
            (10, (21.37, 0.4688), (20.41, 0.4859), (22.03, 0.5216)),
            (20, (22.14, 0.5132), (20.93, 0.5293), (22.78, 0.5707)),
            (30, (22.57, 0.5393), (21.45, 0.5576), (23.25, 0.6013)),
            (40, (22.88, 0.5590), (21.67, 0.5774), (23.59, 0.6226)),
        )
        for system, (psnr_y, ssim_y) in zip(
            ("DnCNN, DAIN, RBPN", "RNAN, DAIN, RBPN", "Zooming SlowMo, trained with JPEG"), figures, strict=True
        )
    ),
    *(
        Printed("vid4-BI-noise-15-x2", system, WITH_NOISE, psnr_y=psnr_y, ssim_y=ssim_y)
        for system, psnr_y, ssim_y in (
            ("ToFlow, SepConv, RBPN", 22.78, 0.5692),
            ("ToFlow, DAIN, EDVR", 22.80, 0.5693),
            ("Zooming SlowMo, trained with noise", 23.91, 0.6514),
        )
    ),
)


def rows_of(label: str) -> list[Printed]:
    """The printed rows of a set; empty for most sets."""
    return [row for row in ROWS if row.set == label]
