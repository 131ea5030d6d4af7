//! Rules that many blocks share: keys without effect, entries that are repeated or out of order.

use super::fields::{Checked, Fields};
use super::value::Value;
use crate::diag::Diagnostic;
use crate::progress::thousands;

/// Refuses a key that has no effect because of another one, `because`.
pub fn unused(
    fields: Fields<'_>,
    name: &str,
    because: &str,
    label: &str,
    faults: &mut Vec<Diagnostic>,
) {
    if fields.is_written(name) {
        let message = format!("`{name}` has no effect here");
        faults.push(
            Diagnostic::new("recipe/unused-key", message)
                .primary(fields.span(name), label)
                .secondary(fields.span(because), "")
                .help(format!("delete `{name}`")),
        );
    }
}

/// Refuses repeated entries of a list.
pub fn distinct<T: Value + PartialEq>(
    fields: Fields<'_>,
    name: &str,
    faults: &mut Vec<Diagnostic>,
) {
    let mut seen: Vec<T> = Vec::new();
    for item in fields.items(name) {
        let Some(value) = T::read(item, fields) else {
            continue;
        };
        if seen.contains(&value) {
            let message = format!("an entry of `{name}` appears twice");
            faults.push(
                Diagnostic::new("recipe/repeated-entry", message)
                    .primary(item.span.as_ref(), "delete this one"),
            );
        }
        seen.push(value);
    }
}

/// Refuses whole numbers of a list that do not ascend; `id` is the id of the fault.
pub fn ascending(fields: Fields<'_>, name: &str, id: &str, faults: &mut Vec<Diagnostic>) {
    let mut last: Option<u64> = None;
    for item in fields.items(name) {
        let value = match &item.value {
            Some(Checked::Integer(value)) => *value,
            _ => continue,
        };
        if let Some(last) = last.filter(|&last| value <= last) {
            let message = format!("`{name}` must ascend, but {value} follows {last}");
            faults.push(Diagnostic::new(id, message).primary(item.span.as_ref(), ""));
        }
        last = Some(value);
    }
}

/// `7 / 2 leaves 1 over`.
pub fn division(whole: u64, part: u64) -> String {
    format!(
        "{} / {} leaves {} over",
        thousands(whole),
        thousands(part),
        thousands(whole % part)
    )
}
