//! Kinds of arithmetic in which products are computed.

use std::fmt;

/// Arithmetic of the products of a model. Everything else is in f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Arithmetic {
    /// Operands and sums in f32.
    #[default]
    F32,
    /// Operands rounded to bf16, sums in f32.
    Bf16(Sums),
}

/// The order in which a bf16 product sums. Both orders sum in f32, with subnormal numbers as zero; their roundings differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sums {
    /// As `vdpbf16ps` of AVX-512 sums.
    Pairs,
    /// As `tdpbf16ps` of AMX sums.
    Tiles,
}

impl Arithmetic {
    /// # Panics
    ///
    /// If it is not f32: preflight refuses bf16 on devices that have no kernel for it.
    pub(super) fn assert_f32(self) {
        assert_eq!(self, Self::F32, "only the CPU has products in bf16");
    }
}

impl Sums {
    /// Every order.
    pub const ALL: [Self; 2] = [Self::Pairs, Self::Tiles];

    /// Those of this machine's fastest instruction; [`Pairs`](Self::Pairs) where there is none.
    pub fn of_this_machine() -> Self {
        let fastest = [Self::Tiles, Self::Pairs].into_iter();
        let mut fastest = fastest.filter(|sums| sums.has_instruction());
        fastest.next().unwrap_or(Self::Pairs)
    }

    /// True if this machine has the instruction, and it computes the bits of its plain twin. Where it has not, the twin
    /// computes the same, slowly.
    pub fn has_instruction(self) -> bool {
        #[cfg(feature = "flex")]
        {
            super::bf16::has_instruction(self)
        }
        #[cfg(not(feature = "flex"))]
        {
            false
        }
    }
}

impl fmt::Display for Arithmetic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Bf16(Sums::Pairs) => "bf16/vdpbf16ps",
            Self::Bf16(Sums::Tiles) => "bf16/amx",
        })
    }
}
