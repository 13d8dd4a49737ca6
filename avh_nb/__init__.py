__version__ = "0.1.0"

from .angle import angles
from .loss.angular import AngularLinear, AVHLoss
from .measure.scores import Scores, avc, avh, score
from .measure.model import score_batches, score_model

__all__ = ['angles', 'avh', 'avc', 'score', 'score_model', 'score_batches', 'Scores', 'AngularLinear', 'AVHLoss']
