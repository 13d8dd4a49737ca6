__version__ = "0.1.0"

from .angles import angles
from .losses import AngularLinear, AVHLoss
from .scores import Scores, avc, avh, score
from .head import score_batches, score_model

__all__ = ['angles', 'avh', 'avc', 'score', 'score_model', 'score_batches', 'Scores', 'AngularLinear', 'AVHLoss']
