//! Kinds of arithmetic in which products are computed.

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::recipe::{Fields, Item, Kind, Value, Word, word_of, words};

words! {
    /// Words for the arithmetic of products; see [`Arithmetic`].
    enum Precision {
        F32 = "f32" also ["float32", "fp32", "single", "full"],
        Bf16 = "bf16" also ["bfloat16", "auto", "half", "mixed", "fp16", "float16"],
        Bf16Pairs = "bf16/vdpbf16ps" also ["avx512_bf16"],
        Bf16Tiles = "bf16/amx" also ["amx", "amx_bf16"],
    }
}

/// Words of a recipe for the arithmetic of products.
pub(crate) const PRECISION: Kind = Kind::Word(Precision::WORDS);

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

    /// Arithmetic that a word means on this machine.
    pub fn of_word(word: &str) -> Option<Self> {
        Precision::of(word).map(Self::from)
    }

    /// Every word, for help texts.
    pub fn words() -> impl Iterator<Item = &'static str> {
        Precision::WORDS.iter().map(|spelling| spelling.word)
    }
}

impl From<Precision> for Arithmetic {
    fn from(precision: Precision) -> Self {
        match precision {
            Precision::F32 => Self::F32,
            Precision::Bf16 => Self::Bf16(Sums::of_this_machine()),
            Precision::Bf16Pairs => Self::Bf16(Sums::Pairs),
            Precision::Bf16Tiles => Self::Bf16(Sums::Tiles),
        }
    }
}

/// A plan knows in which order sums are taken, which `bf16` alone does not say: it decides the results.
impl Value for Arithmetic {
    fn read(item: &Item, _: Fields<'_>) -> Option<Self> {
        word_of::<Precision>(item).map(Self::from)
    }

    fn write(&self, _: &Path) -> serde_json::Value {
        self.to_string().into()
    }
}

impl Serialize for Arithmetic {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Arithmetic {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let word = String::deserialize(deserializer)?;
        let found = Self::of_word(&word).filter(|found| found.to_string() == word);
        found.ok_or_else(|| de::Error::custom(format!("`{word}` is no arithmetic")))
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
            Self::F32 => Precision::F32.word(),
            Self::Bf16(Sums::Pairs) => Precision::Bf16Pairs.word(),
            Self::Bf16(Sums::Tiles) => Precision::Bf16Tiles.word(),
        })
    }
}
