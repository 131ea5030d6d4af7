//! Added tokens of a tokenizer, found in a text as the library finds them.

use std::collections::HashMap;
use std::ops::{ControlFlow, Range};

use regex::{Regex, RegexBuilder};
use tokenizers::{AddedToken, NormalizedString, Normalizer, NormalizerWrapper};

/// Most bytes of a compiled pattern of added tokens; some tokenizers have thousands.
const PATTERN_BYTES: usize = 256 << 20;

/// Added tokens that are looked for at once.
#[derive(Debug)]
pub(super) struct AddedTokens {
    pattern: Regex,
    /// Ids of tokens by their texts, and whether white space before and after belongs to a token.
    tokens: HashMap<String, (u32, [bool; 2])>,
}

/// A tokenizer whose added tokens are not followed.
pub(super) struct NotFollowed;

impl AddedTokens {
    pub(super) fn of<'t>(
        tokens: impl Iterator<Item = (u32, &'t AddedToken)>,
        normalizer: Option<&NormalizerWrapper>,
    ) -> Result<Option<Self>, NotFollowed> {
        let mut found = Vec::new();
        for (id, token) in tokens.filter(|(_, token)| !token.content.is_empty()) {
            if token.single_word {
                return Err(NotFollowed); // what is next to it decides whether it is one
            }
            let normalized =
                normalizer.and_then(|normalizer| normalize(normalizer, &token.content));
            let content = normalized.unwrap_or_else(|| token.content.clone());
            if content.is_empty() {
                return Err(NotFollowed);
            }
            found.push((content, (id, [token.lstrip, token.rstrip])));
        }
        if found.is_empty() {
            return Ok(None);
        }
        // The longest of those that begin at a place is the one.
        found.sort_by(|(one, _), (other, _)| (other.len(), one).cmp(&(one.len(), other)));
        let escaped: Vec<_> = found.iter().map(|(text, _)| regex::escape(text)).collect();
        let pattern = RegexBuilder::new(&escaped.join("|"))
            .size_limit(PATTERN_BYTES)
            .build();
        let pattern = pattern.map_err(|_| NotFollowed)?;
        let tokens = found.into_iter().collect();
        Ok(Some(Self { pattern, tokens }))
    }
}

/// Tells the added tokens of a text with their ids, and what is between them, in their order; what is told is never empty.
pub(super) fn sections(
    added: Option<&AddedTokens>,
    text: &str,
    tell: &mut dyn FnMut(Range<usize>, Option<u32>) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let mut done = 0;
    if let Some(added) = added {
        for found in added.pattern.find_iter(text) {
            let Some(&(id, [left, right])) = added.tokens.get(found.as_str()) else {
                continue; // the pattern is made of these texts
            };
            let (mut start, mut end) = (found.start(), found.end());
            if left {
                start = text[..start].trim_end().len().max(done);
            }
            if right {
                let rest = &text[end..];
                end += rest.len() - rest.trim_start().len();
            }
            if done < start {
                tell(done..start, None)?;
            }
            tell(start..end, Some(id))?;
            done = end;
        }
    }
    if done < text.len() {
        tell(done..text.len(), None)?;
    }
    ControlFlow::Continue(())
}

/// Normalized text; `None` if it is the same.
pub(super) fn normalize(normalizer: &NormalizerWrapper, text: &str) -> Option<String> {
    let mut normalized = NormalizedString::from(text);
    normalizer.normalize(&mut normalized).ok()?;
    (normalized.get() != text).then(|| normalized.get().to_owned())
}
