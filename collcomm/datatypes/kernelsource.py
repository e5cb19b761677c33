"""The text of the kernels that pack on a GPU: CUDA C++ that needs no header. `kernels` finds the numbers that they get."""

from __future__ import annotations

from typing import NamedTuple

THREADS = 256  # of a block of the GPU's
WORDS = 4  # that a thread loads before it stores any
OPTIONS = ("--fmad=false",)  # a product is rounded before it is added to, as on the host

_WORDS = {1: "unsigned char", 2: "unsigned short", 4: "unsigned", 8: "unsigned long long", 16: "uint4"}
_INTEGERS = {
    f"{'u' * (sign == 'unsigned')}int{8 * width}": (f"{sign} {name}", width)
    for width, name in ((1, "char"), (2, "short"), (4, "int"), (8, "long long"))
    for sign in ("signed", "unsigned")
}
_HALVES = {"float16": ("unsigned short", 2), "bfloat16": ("unsigned short", 2)}
_COMPLEX = {"complex64": ("Complex<float>", 8), "complex128": ("Complex<double>", 16)}
_BOOL = {"bool": ("unsigned char", 1)}
_ELEMENTS = {**_INTEGERS, **_BOOL, **_HALVES, **_COMPLEX, "float32": ("float", 4), "float64": ("double", 8)}
_ARITHMETIC = {"add": "x + y", "multiply": "x * y"}
_ORDER = {"minimum": "x <= y || x != x ? x : y", "maximum": "x >= y || x != x ? x : y"}  # a NaN stays
_BITS = {"bitwise_and": "x & y", "bitwise_or": "x | y", "bitwise_xor": "x ^ y"}
_LOGIC = {"add": "x | y", "multiply": "x & y", "minimum": "x & y", "maximum": "x | y", **_BITS}


class Kernel(NamedTuple):
    """What one kernel is for. ``table``: the second level from outside takes its offsets from memory. ``wide``: offsets have
    64 bits. ``ufunc`` and ``dtype``, names: what lies at the target is combined with what comes, if they are given."""

    levels: int
    width: int
    table: bool = False
    wide: bool = False
    ufunc: str = ""
    dtype: str = ""

    @property
    def name(self) -> str:
        how = f"{self.ufunc}_{self.dtype}" if self.ufunc else "copy"
        return f"collcomm_{how}_{self.levels}_{self.width}{'_table' * self.table}{'_wide' * self.wide}"


def element_bytes(ufunc: str, dtype: str) -> int:
    """Of an element of ``dtype``. Raises ValueError where no kernel combines such elements by ``ufunc``."""
    known = {
        **_ARITHMETIC,
        **(_ORDER if dtype not in _COMPLEX else {}),
        **(_BITS if dtype in _INTEGERS | _BOOL else {}),
    }
    if ufunc not in known or dtype not in _ELEMENTS:
        raise ValueError(f"no kernel combines {dtype} by {ufunc}: unpack, and combine then")
    return _ELEMENTS[dtype][1]


def source(kernel: Kernel) -> str:
    """To be compiled with OPTIONS."""
    levels, table, wide = kernel.levels, kernel.table, kernel.wide
    preamble, element, pieces = "", "Word", 1
    moved = "load(source + from)"
    if kernel.ufunc:
        preamble = _combining(kernel)
        element, nbytes = _ELEMENTS[kernel.dtype]
        pieces = nbytes // kernel.width
        moved = f"combined(load(target + to[k]), {moved})"
    entry = " + entry.{}" if table else ""
    return f"""
typedef {_WORDS[kernel.width]} Word;
typedef {"unsigned long long" if wide else "unsigned"} Unsigned;  // offsets wrap around on their way
typedef {"long long" if wide else "int"} Signed;
typedef {"long long" if wide or table else "int"} Offset;
struct Numbers {{ unsigned long long at[{2 * levels + 2 * max(0, levels - 1) + 2}]; }};
{preamble}
struct alignas(16) Entry {{ long long source, target; }};
typedef {element} Element;
union Pieces {{ Element element; Word words[{pieces}]; }};

inline __device__ Element load(const Word *at) {{
    Pieces pieces;
    for (int i = 0; i < {pieces}; i++) pieces.words[i] = at[i];
    return pieces.element;
}}

inline __device__ void store(Word *at, Element element) {{
    Pieces pieces;
    pieces.element = element;
    for (int i = 0; i < {pieces}; i++) at[i] = pieces.words[i];
}}

inline __device__ void locate(const Numbers &numbers, const Entry *table, unsigned q0, Offset &from, Offset &to) {{
    Unsigned source = 0, target = 0;
    {_steps(levels, table)}
    from = (Offset)(Signed)source{entry.format("source")};
    to = (Offset)(Signed)target{entry.format("target")};
}}

extern "C" __global__ void {kernel.name}(
    const Word *__restrict__ source, Word *__restrict__ target, const Entry *__restrict__ table, const Numbers numbers
) {{
    const unsigned total = (unsigned)numbers.at[0], turn = gridDim.x * {THREADS * WORDS};
    for (unsigned first = blockIdx.x * {THREADS * WORDS} + threadIdx.x; first < total; first += turn) {{
        Element held[{WORDS}];
        Offset to[{WORDS}];
        if (first + {THREADS * (WORDS - 1)} < total) {{{_turn(moved, "")}
        }} else {{{_turn(moved, f"if (first + k * {THREADS} < total) ")}
        }}
    }}
}}
"""


def _turn(moved: str, condition: str) -> str:
    """All words of a thread are under way before it waits for the first."""
    return f"""
#pragma unroll
            for (int k = 0; k < {WORDS}; k++) {condition}{{
                Offset from;
                locate(numbers, table, first + k * {THREADS}, from, to[k]);
                held[k] = {moved};
            }}
#pragma unroll
            for (int k = 0; k < {WORDS}; k++) {condition}store(target + to[k], held[k]);"""


def _steps(levels: int, table: bool) -> str:
    """The offsets of word ``q0``, from the numbers in the order that `kernels` gives them in."""
    lines = []
    divisors = 1 + 2 * levels
    for level in range(levels):
        if level:
            magic, shift = divisors + 2 * level - 2, divisors + 2 * level - 1
            quotient = f"__umulhi(q{level - 1}, (unsigned)numbers.at[{magic}]) >> (unsigned)numbers.at[{shift}]"
            lines.append(f"const unsigned q{level} = {quotient};")
        lines.append(f"source += q{level} * (Unsigned)numbers.at[{1 + 2 * level}];")
        lines.append(f"target += q{level} * (Unsigned)numbers.at[{2 + 2 * level}];")
    if table:
        length = f"(unsigned)numbers.at[{divisors + 2 * levels - 2}]"
        lines.append(f"const Entry entry = table[q{levels - 2} - q{levels - 1} * {length}];")
    return "\n    ".join(lines)


def _combining(kernel: Kernel) -> str:
    """``combined``, of what lies there and what comes: elements are opened to numbers, which an operator combines."""
    dtype, ufunc = kernel.dtype, kernel.ufunc
    element = _ELEMENTS[dtype][0]
    preamble, number, opened, closed = "", element, "e", "n"
    how = (_LOGIC if dtype == "bool" else {**_ARITHMETIC, **_ORDER, **_BITS})[ufunc]
    if dtype == "bool":
        number, opened = "unsigned", "e != 0"
    elif dtype in _INTEGERS and ufunc in _ARITHMETIC:
        number = "unsigned long long" if dtype.endswith("64") else "unsigned"  # wraps around; signed ones must not
    elif dtype in _HALVES:
        preamble, number, opened, closed = _HALF[dtype], "float", "widened(e)", "rounded(n)"
    elif dtype in _COMPLEX:
        preamble = _PAIR
    return f"""{preamble}
inline __device__ {number} opened({element} e) {{ return {opened}; }}
inline __device__ {element} closed({number} n) {{ return {closed}; }}
inline __device__ {element} combined({element} mine, {element} theirs) {{
    const {number} x = opened(mine), y = opened(theirs);
    return closed({how});
}}"""


_HALF = {
    "float16": """
#ifdef __CUDA_ARCH__
inline __device__ float widened(unsigned short bits) {
    float number;
    asm("cvt.f32.f16 %0, %1;" : "=f"(number) : "h"(bits));
    return number;
}
inline __device__ unsigned short rounded(float number) {
    unsigned short bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(number));
    return bits;
}
#else
union Half { unsigned short bits; _Float16 number; };
inline float widened(unsigned short bits) {
    Half half;
    half.bits = bits;
    return (float)half.number;
}
inline unsigned short rounded(float number) {
    Half half;
    half.number = (_Float16)number;
    return half.bits;
}
#endif""",
    "bfloat16": """
union Single { unsigned bits; float number; };
inline __device__ float widened(unsigned short bits) {
    Single single;
    single.bits = (unsigned)bits << 16;
    return single.number;
}
inline __device__ unsigned short rounded(float number) {  // to nearest, ties to even
    Single single;
    single.number = number;
    const unsigned bits = single.bits;
    return (unsigned short)(number != number ? bits >> 16 | 0x40 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}""",
}
_PAIR = """
template <typename T> struct Complex { T re, im; };
template <typename T> inline __device__ Complex<T> operator+(Complex<T> x, Complex<T> y) {
    return {x.re + y.re, x.im + y.im};
}
template <typename T> inline __device__ Complex<T> operator*(Complex<T> x, Complex<T> y) {
    return {x.re * y.re - x.im * y.im, x.re * y.im + x.im * y.re};
}"""
