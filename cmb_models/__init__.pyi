# Types of the names that __init__.py imports on first use.
from cmb_models.api import Detection as Detection
from cmb_models.api import DetectionResult as DetectionResult
from cmb_models.api import Detector as Detector
from cmb_models.api import InputError as InputError
from cmb_models.api import Volume as Volume
from cmb_models.api import compare as compare
from cmb_models.api import connect as connect
from cmb_models.api import evaluate as evaluate
from cmb_models.api import load as load
from cmb_models.api import simulate as simulate

__version__: str
