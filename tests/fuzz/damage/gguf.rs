//! Damaged GGUF: counts, lengths, types, dimensions and offsets, each where the format has them.

use super::{Dice, NUMBERS, raw};

/// A number in the head of a file.
struct Place {
    what: &'static str,
    at: usize,
    width: usize,
}

/// Numbers of the head of a sound file, in its order.
struct Head<'a> {
    bytes: &'a [u8],
    at: usize,
    places: Vec<Place>,
}

impl Head<'_> {
    fn number(&mut self, what: &'static str, width: usize) -> Option<usize> {
        let bytes = self.bytes.get(self.at..self.at + width)?;
        self.places.push(Place {
            what,
            at: self.at,
            width,
        });
        self.at += width;
        let mut number = [0; 8];
        number[..width].copy_from_slice(bytes);
        usize::try_from(u64::from_le_bytes(number)).ok()
    }

    fn text(&mut self, what: &'static str) -> Option<()> {
        let length = self.number(what, 8)?;
        self.at = self.at.checked_add(length)?;
        Some(())
    }

    fn value(&mut self, kind: usize) -> Option<()> {
        match kind {
            0 | 1 | 7 => self.number("a value", 1).map(drop),
            2 | 3 => self.number("a value", 2).map(drop),
            4..=6 => self.number("a value", 4).map(drop),
            8 => self.text("the length of a text"),
            9 => {
                let kind = self.number("the type of a list", 4)?;
                let count = self.number("the length of a list", 8)?;
                (0..count).try_for_each(|_| self.value(kind))
            }
            _ => self.number("a value", 8).map(drop),
        }
    }

    fn read(&mut self) -> Option<()> {
        self.at = 4;
        self.number("the version", 4)?;
        let tensors = self.number("the number of tensors", 8)?;
        let keys = self.number("the number of keys", 8)?;
        for _ in 0..keys {
            self.text("the length of a key")?;
            let kind = self.number("the type of a value", 4)?;
            self.value(kind)?;
        }
        for _ in 0..tensors {
            self.text("the length of a name")?;
            let dims = self.number("the number of dimensions", 4)?;
            for _ in 0..dims {
                self.number("a dimension", 8)?;
            }
            self.number("the type of a tensor", 4)?;
            self.number("the offset of a tensor", 8)?;
        }
        Some(())
    }
}

pub(super) fn damage(bytes: &mut Vec<u8>, dice: &mut Dice) -> String {
    let mut head = Head {
        bytes,
        at: 0,
        places: Vec::new(),
    };
    head.read();
    let places = head.places;
    if places.is_empty() || dice.percent(15) {
        return raw(bytes, dice);
    }
    // Lists have most of the numbers: the kind is drawn first.
    let mut kinds: Vec<&str> = places.iter().map(|place| place.what).collect();
    kinds.sort_unstable();
    kinds.dedup();
    let kind = *dice.pick(&kinds);
    let of_kind: Vec<&Place> = places.iter().filter(|place| place.what == kind).collect();
    let Place { what, at, width } = **dice.pick(&of_kind);
    let mut number = [0; 8];
    number[..width].copy_from_slice(&bytes[at..at + width]);
    let before = u64::from_le_bytes(number);
    let others = [
        before.wrapping_add(1),
        before.wrapping_sub(1),
        before.wrapping_mul(2),
        *dice.pick(&NUMBERS),
        *dice.pick(&NUMBERS),
    ];
    let after = *dice.pick(&others);
    bytes[at..at + width].copy_from_slice(&after.to_le_bytes()[..width]);
    format!("{what} at byte {at}: {before} became {after}")
}
