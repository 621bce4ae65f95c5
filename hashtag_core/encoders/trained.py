"""The encoders that a model folder was trained through."""

from hashtag_core.config import EncodersSection
from hashtag_core.data.model_record import ModelDescription
from hashtag_core.encoders import load_encoders
from hashtag_core.encoders.tops import EncoderTops


def trained_tops(described: ModelDescription, needs: frozenset[str]) -> EncoderTops | None:
    """Modules for the weights of `model.json`'s encoders that were trained with the model, None where they stayed as they were.
    `needs`: what the family reads. It is what `models.folder.load_model_folder` asks for."""
    section = EncodersSection(**(described.get("recipe") or {}).get("encoders", {}))
    return None if section.finetune == "none" else load_encoders(section, needs, "cpu").tops()
