//! Faults of rows that are not JSON, in words that name what no editor shows.

use super::fault::FaultKind;

/// The fault of a line that is not JSON, in words that name what no editor shows.
pub(super) fn not_json(line: &str, column: usize, error: &serde_json::Error) -> FaultKind {
    let message = error.to_string();
    let parser = message
        .split_once(" at line ")
        .map_or(&*message, |(reason, _)| reason);
    let about_escapes = parser.contains("hex escape") || parser.contains("surrogate");
    if let Some((column, escape)) = half_a_pair(line).filter(|_| about_escapes) {
        let reason = format!(
            "`{escape}` is half of a surrogate pair, as in a text that was cut inside an emoji"
        );
        return FaultKind::NotJson {
            line: None,
            column,
            reason,
        };
    }
    let reason = match invisible(line, column) {
        Some(found) => format!("an invisible character, {found}"),
        None if error.is_eof() && line.trim_start().starts_with('[') => {
            "a list that goes on in the next line; each line is one object".to_owned()
        }
        None => parser.to_owned(),
    };
    FaultKind::NotJson {
        line: None,
        column,
        reason,
    }
}

/// Column and letters of the first escape that is one half of a surrogate pair without the other.
fn half_a_pair(line: &str) -> Option<(usize, &str)> {
    let unit = |at: usize| {
        let digits = line.get(at..at + 6)?.strip_prefix("\\u")?;
        u16::from_str_radix(digits, 16).ok()
    };
    let mut at = 0;
    while let Some(found) = line.get(at..)?.find('\\') {
        at += found;
        match unit(at) {
            Some(0xd800..=0xdbff) => match unit(at + 6) {
                Some(0xdc00..=0xdfff) => at += 12,
                _ => return Some((at + 1, &line[at..at + 6])),
            },
            Some(0xdc00..=0xdfff) => return Some((at + 1, &line[at..at + 6])),
            _ => at += 1 + line[at + 1..].chars().next().map_or(0, char::len_utf8),
        }
    }
    None
}

/// The character at a column (in bytes, from 1), if no editor shows it.
fn invisible(line: &str, column: usize) -> Option<String> {
    let mut at = column.saturating_sub(1);
    while !line.is_char_boundary(at) {
        at -= 1;
    }
    let character = line.get(at..)?.chars().next()?;
    let name = match character {
        '\u{feff}' => " (a byte-order mark, as where two files were joined)",
        '\0' => " (NUL, as in a file whose end was never written)",
        '\u{1a}' => " (an end-of-file mark of DOS)",
        '\u{a0}' => " (a no-break space)",
        '\u{ad}' => " (a soft hyphen)",
        '\u{200b}' => " (a zero-width space)",
        '\u{2028}' => " (a line separator)",
        '\u{2029}' => " (a paragraph separator)",
        '\u{3000}' => " (an ideographic space)",
        '\t' | '\n' | '\r' | ' ' => return None,
        other if other.is_control() || other.is_whitespace() => "",
        '\u{34f}'
        | '\u{61c}'
        | '\u{115f}'
        | '\u{1160}'
        | '\u{180b}'..='\u{180e}'
        | '\u{200c}'..='\u{200f}'
        | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}'
        | '\u{3164}'
        | '\u{fe00}'..='\u{fe0f}'
        | '\u{ffa0}'
        | '\u{e0000}'..='\u{e0fff}' => "",
        _ => return None,
    };
    Some(format!("U+{:04X}{name}", u32::from(character)))
}
