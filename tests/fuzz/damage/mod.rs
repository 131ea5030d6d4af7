//! Damage of files, by what is in them.

mod gguf;
mod json;
mod safetensors;
mod yaml;

use alambic::random::Stream;

pub(crate) use self::safetensors::{is_ours, with_checksum};

/// Draws of one case.
pub(crate) struct Dice(Stream);

impl Dice {
    /// The draws of a case depend on the seed and its number alone, so each case can be repeated by itself.
    pub(crate) fn of_case(seed: u64, case: usize) -> Self {
        Self(Stream::new(seed, &format!("case {case}")))
    }

    /// A whole number below a bound, which is above 0.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "below the bound"
    )]
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        ((self.0.uniform() * bound as f64) as usize).min(bound - 1)
    }

    pub(crate) fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        let idx = self.below(list.len());
        &list[idx]
    }

    /// True in `parts` of a hundred cases.
    pub(crate) fn percent(&mut self, parts: usize) -> bool {
        self.below(100) < parts
    }
}

/// Whole numbers at which sizes, offsets and casts break.
const NUMBERS: [u64; 16] = [
    0,
    1,
    2,
    3,
    7,
    31,
    255,
    65_536,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
    1 << 32,
    (1 << 53) + 1,
    1 << 62,
    1 << 63,
    u64::MAX,
];

/// Damages the bytes of a file of this name; what was done.
pub(crate) fn damage(name: &str, bytes: &mut Vec<u8>, dice: &mut Dice) -> String {
    if name.ends_with("tokenizer.json") {
        // What an outside library reads is damaged harmlessly.
        return json::harmlessly(bytes, dice);
    }
    if dice.percent(15) || bytes.is_empty() {
        return raw(bytes, dice);
    }
    match name.rsplit_once('.').map_or("", |(_, extension)| extension) {
        "safetensors" => safetensors::damage(bytes, dice),
        "gguf" => gguf::damage(bytes, dice),
        "json" => json::damage(bytes, dice),
        "jsonl" => json::damage_line(bytes, dice),
        "yaml" => yaml::damage(bytes, dice),
        _ => raw(bytes, dice),
    }
}

/// Damages bytes whatever they mean.
fn raw(bytes: &mut Vec<u8>, dice: &mut Dice) -> String {
    let len = bytes.len();
    let at = dice.below(len + 1);
    match dice.below(5) {
        0 => {
            bytes.truncate(at);
            format!("cut to {at} of {len} bytes")
        }
        1 => {
            let more = 1 + dice.below(64);
            bytes.resize(len + more, 0);
            format!("{more} zeros after the end")
        }
        2 if at < len => {
            let end = len.min(at + 1 + dice.below(16));
            bytes.drain(at..end);
            format!("bytes {at}..{end} left out")
        }
        3 if at < len => {
            let number = dice.pick(&NUMBERS).to_le_bytes();
            let end = len.min(at + 8);
            bytes[at..end].copy_from_slice(&number[..end - at]);
            format!("bytes {at}..{end} are {number:?}")
        }
        _ if at < len => {
            let bit = dice.below(8);
            bytes[at] ^= 1 << bit;
            format!("bit {bit} of byte {at} flipped")
        }
        _ => {
            bytes.clear();
            "emptied".to_owned()
        }
    }
}
