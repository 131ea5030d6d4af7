//! Words of the recipe: one list makes an enum, its spelling, and its docs.

use super::meant::Spelling;

/// Enum whose variants are words of the recipe.
pub trait Word: Copy + 'static {
    /// All words as they are written, in the order in which they are listed.
    const WORDS: &'static [Spelling];

    /// Looks a word up; `None` if it is unknown.
    fn of(word: &str) -> Option<Self>;
}

/// Declares an enum of words. A table of keys takes its `WORDS`, and the reader of the key gets the enum: a word that is added
/// here and handled nowhere does not compile. `also ["..."]` lists its names in other programs, for the message about those.
macro_rules! words {
    (@also) => { [] };
    (@also $also:tt) => { $also };
    (
        $(#[$meta:meta])*
        $vis:vis enum $Name:ident {
            $($(#[$about:meta])* $Variant:ident = $word:literal $(also $also:tt)?,)+
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
        $vis enum $Name {
            $($(#[$about])* #[serde(rename = $word)] $Variant,)+
        }

        impl $Name {
            /// Word as it is written in a recipe.
            $vis const fn word(self) -> &'static str {
                match self {
                    $(Self::$Variant => $word,)+
                }
            }
        }

        impl $crate::recipe::Word for $Name {
            const WORDS: &'static [$crate::recipe::Spelling] = &[$($crate::recipe::Spelling {
                word: $word,
                also: &$crate::recipe::words!(@also $($also)?),
            }),+];

            fn of(word: &str) -> Option<Self> {
                match word {
                    $($word => Some(Self::$Variant),)+
                    _ => None,
                }
            }
        }

        impl $crate::recipe::Value for $Name {
            fn read(
                item: &$crate::recipe::Item,
                _: $crate::recipe::Fields<'_>,
            ) -> Option<Self> {
                $crate::recipe::word_of(item)
            }

            fn write(&self, _: &std::path::Path) -> serde_json::Value {
                self.word().into()
            }
        }

        impl std::fmt::Display for $Name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.word())
            }
        }
    };
}

pub(crate) use words;

#[cfg(test)]
mod tests {
    use super::{Spelling, Word};

    words! {
        /// Two words.
        enum Answer {
            /// The first.
            Yes = "yes-please",
            /// The second.
            No = "no" also ["nope"],
        }
    }

    #[test]
    fn words_are_serialised_as_they_are_written() {
        for Spelling { word, .. } in Answer::WORDS {
            let value = Answer::of(word).unwrap();
            assert_eq!(serde_json::to_value(value).unwrap(), *word);
            assert_eq!(value.to_string(), *word);
        }
        let [_, no] = Answer::WORDS else {
            panic!("two words");
        };
        assert_eq!(no.also, ["nope"]);
        assert_eq!(Answer::of("nope"), None);
        assert_eq!(Answer::of("no word"), None);
        assert_eq!(Answer::Yes.word(), "yes-please");
    }
}
