"""Simulated head CT: whole heads in three dimensions, sliced as scanners do.

`draw_spec(seed)` draws a patient, what is wrong with the head, and a scanner; `simulate(spec)` makes the exam with
its truth; `write_series` and `write_study` (`ml.phantom.dicom`) store it as DICOM. A spec gives the same exam each
time.

What is simulated
- Skull with two tables and diploe, sutures, crests inside, a base of three fossae with sphenoid and petrous ridges,
  clivus, sella, foramen magnum; air cells of sinuses and mastoids; orbits with eyes, fat, muscles and nerves; scalp,
  muscles, jaw, first vertebra.
- Brain with a folded grey ribbon, white matter, deep grey matter, cerebellum with folia, brainstem, ventricles,
  cisterns, fissures, falx, tentorium, venous sinuses, the larger arteries; atrophy widens all fluid together.
- EDH, IPH, IVH, SAH and SDH with edema and displacement of the tissue around them. Only blood that is truly visible
  is labelled: at least 35 % of a voxel, at least 5 HU brighter than what would be there without it, and not buried in
  bone. But for bone that outshines it, this is judged before the scanner's part: beside bone a sharp kernel and beam
  hardening make a few labelled voxels darker than brain.
- Bright and no blood: calcifications, dense sinuses, tentorium and arteries, bone partly in a slice at vertex and
  base, beam hardening, metal with streaks, drains, tumours, heads that shift and turn (`motion`). Dark and no blood:
  infarcts, lacunes, chronic collections, leukoaraiosis, gas.
- Scanner: pose, gantry tilt, thick slices averaged along their normal, zones of different thickness, field of view,
  kernel, coloured noise that grows behind bone, errors made in projections and back-projected, rings, cupping, HU
  offset and gain, headrest, padding.

Sources: volumes and HU of bleeds from BHSD (see `draw_bleeds`), their shapes from InSilicoICH (FDA, CC0); grey-white
contrast of 7 HU and brain noise of 4 HU at 120 kV from Advances in Computed Tomography 8(2), 2019; noise spectrum and
skull measured on a public GE head CT; children's heads: see `draw_child`.

What it is good for: mechanics, ranking, domain shift, training that must carry over to real scans. It cannot show
clinical accuracy. Institution "A" is smooth, thick and tilted; "B" is sharp, thinner, noisier, brighter by some HU
and has fewer bleeds; "any" is drawn wider than nature; "pediatric" scans children (`ml.phantom.draw_child`): small
heads, thin and soft bone with open sutures, full and dark brains. Their faces have the proportions of adults.
"""

from ml.phantom.draw import draw_mass, draw_surgery
from ml.phantom.draw_scanner import INSTITUTIONS, PEDIATRIC
from ml.phantom.exam import ExamSpec, SimulatedExam, draw_spec, simulate

__all__ = [
    "INSTITUTIONS",
    "PEDIATRIC",
    "ExamSpec",
    "SimulatedExam",
    "draw_mass",
    "draw_spec",
    "draw_surgery",
    "simulate",
]
