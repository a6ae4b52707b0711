"""What a saved synthesizer is made of, by SDV's, RDT's and ctgan's names."""

from __future__ import annotations

from typing import Any

import numpy as np


class Part:
    """Attributes, as they are given."""

    def __init__(self, **attributes: Any) -> None:
        vars(self).update(attributes)


class Tensor(Part):
    def detach(self) -> Tensor:
        return self

    cpu = detach

    def numpy(self) -> np.ndarray:
        return self.values


class CTGANSynthesizer(Part): ...


class TVAESynthesizer(Part): ...


class CopulaGANSynthesizer(Part): ...


class Linear(Part): ...


class Residual(Part): ...


class ReLU(Part): ...


class FloatFormatter(Part): ...


class UnixTimestampEncoder(Part): ...


class UniformEncoder(Part): ...


class LabelEncoder(Part): ...


class BinaryEncoder(Part): ...


class AnonymizedFaker(Part): ...


class LogScaler(Part): ...


class Nulls(Part):
    def models_missing_values(self) -> bool:
        return self._missing_value_generation == "from_column"
