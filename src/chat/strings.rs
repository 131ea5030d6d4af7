//! Methods of Python's strings.

use minijinja::value::Tuple;
use minijinja::{Error, ErrorKind, State, Value};

use super::args::Args;

/// Pays for a text of this length before it is used further.
pub(super) fn pay(state: &State<'_, '_>, bytes: usize) -> Result<(), Error> {
    const BYTES_OF_FUEL: usize = 64;
    state.consume_fuel(u64::try_from(bytes / BYTES_OF_FUEL).unwrap_or(u64::MAX))
}

/// White space, as `str.isspace` has it: Unicode's, and the four separators of ASCII.
pub(super) fn is_space(letter: char) -> bool {
    letter.is_whitespace() || matches!(letter, '\u{1c}'..='\u{1f}')
}

/// Calls a method; `None` if it is none of those here.
pub(super) fn call(
    state: &State<'_, '_>,
    text: &str,
    method: &str,
    args: &[Value],
) -> Result<Option<Value>, Error> {
    let value = match method {
        "find" | "rfind" | "index" | "rindex" | "count" => search(text, method, args)?,
        "startswith" | "endswith" if args.len() > 1 => touches_within(text, method, args)?,
        "zfill" | "ljust" | "rjust" | "center" => padded(state, text, method, args)?,
        "title" => Value::from(title(text)),
        "swapcase" => Value::from(swapped(text)),
        "casefold" => Value::from(text.to_lowercase().replace('ß', "ss")),
        "isspace" => Value::from(!text.is_empty() && text.chars().all(is_space)),
        "isdecimal" | "isdigit" if text.is_ascii() => {
            Value::from(!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()))
        }
        _ => return cut(text, method, args),
    };
    Ok(Some(value))
}

/// Calls a method that cuts a text.
fn cut(text: &str, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    let value = match method {
        "strip" | "lstrip" | "rstrip" => {
            let chars = Args::new(args, &["chars"])?.text(0, "chars")?;
            let sides = match method {
                "lstrip" => Sides::Left,
                "rstrip" => Sides::Right,
                _ => Sides::Both,
            };
            Value::from(stripped(text, chars.as_deref(), sides))
        }
        "split" | "rsplit" => {
            let args = Args::new(args, &["sep", "maxsplit"])?;
            let most = args.number(1, "maxsplit")?;
            let most = most.and_then(|most| usize::try_from(most).ok());
            let from_right = method == "rsplit";
            let parts = split(text, args.text(0, "sep")?.as_deref(), most, from_right)?;
            parts.into_iter().map(Value::from).collect()
        }
        "splitlines" => {
            let keep = Args::new(args, &["keepends"])?.is_set(0, "keepends")?;
            lines(text, keep).into_iter().map(Value::from).collect()
        }
        "removeprefix" => {
            let prefix = Args::new(args, &["prefix"])?.needed_text(0, "prefix")?;
            Value::from(text.strip_prefix(prefix.as_str()).unwrap_or(text))
        }
        "removesuffix" => {
            let suffix = Args::new(args, &["suffix"])?.needed_text(0, "suffix")?;
            Value::from(text.strip_suffix(suffix.as_str()).unwrap_or(text))
        }
        "partition" | "rpartition" => {
            let sep = Args::new(args, &["sep"])?.needed_text(0, "sep")?;
            partition(text, &sep, method == "rpartition")?
        }
        _ => return Ok(None),
    };
    Ok(Some(value))
}

/// Sides of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sides {
    Both,
    Left,
    Right,
}

/// A text without the characters at its sides; white space if none are named.
pub(super) fn stripped<'t>(text: &'t str, chars: Option<&str>, sides: Sides) -> &'t str {
    let goes =
        |letter: char| chars.map_or_else(|| is_space(letter), |chars| chars.contains(letter));
    match sides {
        Sides::Both => text.trim_matches(goes),
        Sides::Left => text.trim_start_matches(goes),
        Sides::Right => text.trim_end_matches(goes),
    }
}

fn split<'t>(
    text: &'t str,
    sep: Option<&str>,
    most: Option<usize>,
    from_right: bool,
) -> Result<Vec<&'t str>, Error> {
    let Some(sep) = sep else {
        return Ok(words(text, most, from_right));
    };
    if sep.is_empty() {
        return Err(Error::new(
            ErrorKind::InvalidOperation,
            "split: the separator is empty",
        ));
    }
    Ok(match (most, from_right) {
        (None, _) => text.split(sep).collect(),
        (Some(most), false) => text.splitn(most.saturating_add(1), sep).collect(),
        (Some(most), true) => {
            let mut parts: Vec<_> = text.rsplitn(most.saturating_add(1), sep).collect();
            parts.reverse();
            parts
        }
    })
}

/// Words between white space, at most `most` of them cut off.
fn words(text: &str, most: Option<usize>, from_right: bool) -> Vec<&str> {
    let (mut rest, mut parts) = (text, Vec::new());
    loop {
        rest = stripped(
            rest,
            None,
            if from_right {
                Sides::Right
            } else {
                Sides::Left
            },
        );
        if rest.is_empty() {
            break;
        }
        if most.is_some_and(|most| parts.len() == most) {
            parts.push(rest);
            break;
        }
        let cut = if from_right {
            rest.char_indices()
                .rfind(|&(_, letter)| is_space(letter))
                .map(|(at, letter)| (at, at + letter.len_utf8()))
        } else {
            rest.char_indices()
                .find(|&(_, letter)| is_space(letter))
                .map(|(at, _)| (at, at))
        };
        let (part, others) = match cut {
            None => (rest, ""),
            Some((at, behind)) if from_right => (&rest[behind..], &rest[..at]),
            Some((at, _)) => (&rest[..at], &rest[at..]),
        };
        parts.push(part);
        rest = others;
    }
    if from_right {
        parts.reverse();
    }
    parts
}

/// Lines, which end at any of Python's ends.
pub(super) fn lines(text: &str, keep: bool) -> Vec<&str> {
    let (mut lines, mut rest) = (Vec::new(), text);
    while let Some((at, end)) = rest.char_indices().find(|&(_, letter)| is_line_end(letter)) {
        let mut behind = at + end.len_utf8();
        if end == '\r' && rest[behind..].starts_with('\n') {
            behind += 1;
        }
        lines.push(&rest[..if keep { behind } else { at }]);
        rest = &rest[behind..];
    }
    if !rest.is_empty() {
        lines.push(rest);
    }
    lines
}

fn is_line_end(letter: char) -> bool {
    matches!(letter, '\n'..='\r' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

fn partition(text: &str, sep: &str, from_right: bool) -> Result<Value, Error> {
    if sep.is_empty() {
        return Err(Error::new(
            ErrorKind::InvalidOperation,
            "partition: the separator is empty",
        ));
    }
    let parts = match (
        if from_right {
            text.rfind(sep)
        } else {
            text.find(sep)
        },
        from_right,
    ) {
        (Some(at), _) => [&text[..at], sep, &text[at + sep.len()..]],
        (None, false) => [text, "", ""],
        (None, true) => ["", "", text],
    };
    Ok(Value::from(Tuple::from(parts.map(Value::from))))
}

/// Part of a text between `start` and `end`, which count characters, and how many characters are before it.
fn range<'t>(text: &'t str, args: &Args<'_>) -> Result<Option<(&'t str, usize)>, Error> {
    let (start, end) = (args.number(1, "start")?, args.number(2, "end")?);
    if start.is_none() && end.is_none() {
        return Ok(Some((text, 0)));
    }
    let length = text.chars().count();
    let place = |at: i64| {
        let from_end = usize::try_from(at.unsigned_abs()).unwrap_or(usize::MAX);
        if at < 0 {
            length.saturating_sub(from_end)
        } else {
            from_end
        }
    };
    let (start, end) = (
        start.map_or(0, place),
        end.map_or(length, place).min(length),
    );
    if start > end {
        return Ok(None);
    }
    let byte = |at: usize| {
        text.char_indices()
            .nth(at)
            .map_or(text.len(), |(byte, _)| byte)
    };
    Ok(Some((&text[byte(start)..byte(end)], start)))
}

fn search(text: &str, method: &str, args: &[Value]) -> Result<Value, Error> {
    let args = Args::new(args, &["sub", "start", "end"])?;
    let wanted = args.needed_text(0, "sub")?;
    let part = range(text, &args)?;
    if method == "count" {
        return Ok(Value::from(
            part.map_or(0, |(part, _)| part.matches(wanted.as_str()).count()),
        ));
    }
    let found = part.and_then(|(part, before)| {
        let at = if method.starts_with('r') {
            part.rfind(&wanted)
        } else {
            part.find(&wanted)
        };
        Some(before + part[..at?].chars().count())
    });
    match found {
        Some(at) => Ok(Value::from(at)),
        None if method.ends_with("find") => Ok(Value::from(-1)),
        None => Err(Error::new(
            ErrorKind::InvalidOperation,
            format!("{method}: {wanted:?} is not in the text"),
        )),
    }
}

/// Tells whether the part of a text between `start` and `end` begins, or ends, with a text.
fn touches_within(text: &str, method: &str, args: &[Value]) -> Result<Value, Error> {
    let parsed = Args::new(args, &["part", "start", "end"])?;
    let parts = parsed.get(0, "part")?;
    let parts = parts.ok_or_else(|| Error::from(ErrorKind::MissingArgument))?;
    Ok(Value::from(match range(text, &parsed)? {
        None => false,
        Some((within, _)) => touches(within, &parts, method == "startswith")?,
    }))
}

/// Tells whether a text begins, or ends, with a text or one of several.
fn touches(text: &str, parts: &Value, at_start: bool) -> Result<bool, Error> {
    let touches = |part: &str| {
        if at_start {
            text.starts_with(part)
        } else {
            text.ends_with(part)
        }
    };
    if let Some(part) = parts.as_str() {
        return Ok(touches(part));
    }
    for part in parts.try_iter()?.checked() {
        if part?.as_str().is_some_and(touches) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn padded(state: &State<'_, '_>, text: &str, method: &str, args: &[Value]) -> Result<Value, Error> {
    let args = Args::new(args, &["width", "fillchar"])?;
    let width = args
        .number(0, "width")?
        .ok_or_else(|| Error::from(ErrorKind::MissingArgument))?;
    let length = text.chars().count();
    let width = usize::try_from(width).unwrap_or(0);
    let fill = args.text(1, "fillchar")?.unwrap_or_else(|| " ".to_owned());
    let missing = width.saturating_sub(length);
    pay(state, missing.saturating_mul(fill.len().max(1)))?;
    Ok(Value::from(match method {
        "zfill" => {
            let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
            let sign = &text[..text.len() - digits.len()];
            format!("{sign}{}{digits}", "0".repeat(missing))
        }
        "ljust" => format!("{text}{}", fill.repeat(missing)),
        "rjust" => format!("{}{text}", fill.repeat(missing)),
        _ => {
            let left = missing / 2 + (missing & width & 1);
            format!("{}{text}{}", fill.repeat(left), fill.repeat(missing - left))
        }
    }))
}

/// Every word, which is a run of letters, with a capital.
fn title(text: &str) -> String {
    let (mut out, mut in_word) = (String::with_capacity(text.len()), false);
    for letter in text.chars() {
        let has_case = letter.is_lowercase() || letter.is_uppercase();
        if has_case && in_word {
            out.extend(letter.to_lowercase());
        } else if has_case {
            out.extend(letter.to_uppercase());
        } else {
            out.push(letter);
        }
        in_word = has_case;
    }
    out
}

fn swapped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        if letter.is_uppercase() {
            out.extend(letter.to_lowercase());
        } else {
            out.extend(letter.to_uppercase());
        }
    }
    out
}
