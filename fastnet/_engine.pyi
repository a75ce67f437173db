from collections.abc import Callable
from typing import Any

from numpy import dtype as DType
from numpy import ndarray

def aligned_zeros(size: int, dtype: Any) -> ndarray: ...
def padded(size: int, dtype: Any) -> int: ...

class Objective:
    def __init__(
        self,
        kind: str,
        dtype: Any,
        mean: bool = True,
        class_weight: ndarray | None = None,
        pos_weight: ndarray | None = None,
        ignore_index: int | None = None,
        label_smoothing: float = 0.0,
        delta: float = 1.0,
        penalty: float = 0.0,
        by_rows: bool = False,
    ) -> None: ...

class Steps:
    states: tuple[ndarray | None, ndarray | None, ndarray | None]
    rates: ndarray
    def __init__(
        self,
        rule: str,
        states: tuple[ndarray | None, ndarray | None, ndarray | None],
        rates: ndarray,
        clip: float,
        clip_norm: float,
        decays_vectors: bool,
        taken: ndarray,
        **numbers: float,
    ) -> None: ...

class Use:
    @property
    def training(self) -> Turn: ...
    @property
    def exclusive(self) -> Turn: ...
    def check_free(self) -> None: ...
    def __enter__(self) -> None: ...
    def __exit__(self, *error: object) -> None: ...

class Turn:
    def __enter__(self) -> None: ...
    def __exit__(self, *error: object) -> None: ...

class Engine:
    use: Use
    n_in: int
    n_out: int
    dtype: DType
    n_threads: int
    forced: int
    def __init__(
        self,
        operations: list[dict[str, Any]],
        parameters: ndarray,
        gradients: ndarray,
        flattens: bool = False,
        packs: bool = False,
        use: Use | None = None,
    ) -> None: ...
    def reserve(self, batch_size: int, threads: int = 1) -> None: ...
    def poison(self, value: float) -> None: ...
    def train(
        self,
        x: ndarray,
        target: ndarray,
        sample_weight: ndarray | None,
        objective: Objective,
        batch_size: int,
        order: ndarray | None,
        accuracy: bool,
        keep_gradients: bool,
        steps: Steps,
        update: bool = True,
        scores: ndarray | None = None,
    ) -> tuple[str, int, float, float, float, int]: ...
    def apply_pending(self, objective: Objective, keep_gradients: bool, steps: Steps) -> str: ...
    def waiting(self) -> tuple[ndarray, float]: ...
    def divide_waiting(self, total: float) -> None: ...
    @property
    def pending(self) -> bool: ...
    def forget_pending(self) -> None: ...
    def inputs(self, x: Any) -> ndarray: ...
    def predict(self, x: Any, out: ndarray | None = None) -> ndarray: ...
    def finite(self) -> bool: ...
    def evaluate(
        self,
        x: ndarray,
        target: ndarray,
        sample_weight: ndarray | None,
        objective: Objective,
        accuracy: bool,
        scores: ndarray | None = None,
    ) -> tuple[str, float, float, int]: ...

def tuned(
    took_by: Callable[[int, float], float],
    pieces: int,
    most: int,
    sure: bool = False,
    pause_before: Callable[[float], float] | None = None,
) -> list[int]: ...

class Forward:
    @property
    def in_features(self) -> int: ...
    @property
    def out_features(self) -> int: ...
    @property
    def dtype(self) -> DType: ...
    def __init__(
        self, operations: list[dict[str, Any]], parameters: ndarray, flattens: bool,
        n_threads: int,
    ) -> None: ...
    @property
    def n_threads(self) -> int | None: ...
    def predict(self, x: Any, out: ndarray | None = None) -> ndarray: ...
