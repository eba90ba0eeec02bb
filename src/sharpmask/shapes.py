"""Types and shapes of arrays in signatures, such as ``Float[np.ndarray, "n 4"]``.

They are jaxtyping's for whoever reads or checks types. When the program runs they stand for the
array alone: to import jaxtyping takes as long as to import NumPy.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxtyping import Bool as Bool
    from jaxtyping import Float as Float
    from jaxtyping import Float32 as Float32
    from jaxtyping import Int as Int
    from jaxtyping import UInt8 as UInt8
else:

    class _Shaped:
        def __class_getitem__(cls, item: tuple[Any, str]) -> Any:
            return item[0]

    Bool = Float = Float32 = Int = UInt8 = _Shaped
