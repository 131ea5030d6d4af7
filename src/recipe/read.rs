//! Reads the YAML tree, key by key, against the table of keys.
//!
//! It looks at one key at a time; the stages check keys against one another.

use std::path::Path;

use super::fields::{Blocks, Checked, Entry, Filled, Item};
use super::kinds::{Block, Fallback, Key, Kind};
use super::meant::{meant, meant_elsewhere, most_similar};
use super::tree::{self, Node, YamlValue};
use super::{Grammar, values};
use crate::diag::{Diagnostic, Origin, Span, code_list};

/// Reads a whole recipe; paths are relative to `folder`. Returns every fault of a single key; no blocks if the text is no map.
pub(super) fn read(grammar: &Grammar, root: &Node, folder: &Path) -> (Blocks, Vec<Diagnostic>) {
    let mut reader = RecipeReader {
        root: grammar.root,
        folder,
        may_be_absent: grammar.may_be_absent,
        in_default: false,
        outer: None,
        stands_for: None,
        blocks: Blocks::default(),
        faults: Vec::new(),
    };
    reader.block(grammar.root, root, None);
    (reader.blocks, reader.faults)
}

struct RecipeReader<'a> {
    /// Keys of the whole text, where a key may belong that stands elsewhere.
    root: &'static Block,
    folder: &'a Path,
    /// See [`Grammar`].
    may_be_absent: &'static [&'static str],
    /// True while a default is read, which has no place.
    in_default: bool,
    /// Number of the block that is being read.
    outer: Option<usize>,
    /// Key that holds the value which is being read alone, in place of its block.
    stands_for: Option<&'static str>,
    blocks: Blocks,
    faults: Vec<Diagnostic>,
}

impl RecipeReader<'_> {
    fn block(
        &mut self,
        block: &'static Block,
        node: &Node,
        holder: Option<&Span>,
    ) -> Option<Checked> {
        let YamlValue::Map(written) = &node.value else {
            let message = format!(
                "{} must be a map of keys, but is {}",
                shown(block),
                values::describe(node)
            );
            let span = holder.unwrap_or(&node.span);
            let known = format!("keys: {}", code_list(block.names()));
            self.faults
                .push(Diagnostic::new("recipe/wrong-type", message).primary(span, known));
            return None;
        };
        let has_unknown = self.names(block, written);
        let place = self.open(block, holder, has_unknown);
        let outer = self.outer.replace(place);
        let entries = self.fill((block, holder), block.iter(), written);
        self.outer = outer;
        self.close(place, entries)
    }

    /// Entries of some keys of a block: as written, or their defaults.
    fn fill(
        &mut self,
        (block, holder): (&'static Block, Option<&Span>),
        keys: impl Iterator<Item = &'static Key>,
        written: &[(tree::Name, Node)],
    ) -> Vec<Entry> {
        let mut entries = Vec::new();
        for key in keys {
            if let Some((name, node)) = written.iter().find(|(name, _)| name.text == key.name) {
                entries.push(self.entry(key, &name.span, node));
                continue;
            }
            match key.default {
                Fallback::Required => self.missing(block, key, holder),
                Fallback::Value(text) => entries.push(self.default(key, text)),
                Fallback::Rule(_) => {}
            }
        }
        entries
    }

    /// Begins a block and returns its number.
    fn open(&mut self, block: &'static Block, holder: Option<&Span>, has_unknown: bool) -> usize {
        let filled = Filled {
            block,
            outer: self.outer,
            holder: self.place(holder),
            entries: Vec::new(),
            has_unknown,
        };
        self.blocks.0.push(filled);
        self.blocks.0.len() - 1
    }

    fn close(&mut self, place: usize, entries: Vec<Entry>) -> Option<Checked> {
        self.blocks.0.get_mut(place)?.entries = entries;
        Some(Checked::Block(place))
    }

    /// Refuses keys that are unknown or repeated; true if one was unknown.
    fn names(&mut self, block: &'static Block, written: &[(tree::Name, Node)]) -> bool {
        let mut has_unknown = false;
        for (index, (name, _)) in written.iter().enumerate() {
            let mut earlier = written.iter().take(index);
            if !block.names().any(|known| known == name.text) {
                self.faults.push(self.unknown_key(block, name));
                has_unknown = true;
            } else if let Some((first, _)) = earlier.find(|(first, _)| first.text == name.text) {
                let message = format!("`{}` is written twice in {}", name.text, shown(block));
                self.faults.push(
                    Diagnostic::new("recipe/duplicate-key", message)
                        .primary(&name.span, "again here")
                        .secondary(&first.span, "first here")
                        .help("delete one of the two"),
                );
            }
        }
        has_unknown
    }

    fn missing(&mut self, block: &'static Block, key: &'static Key, holder: Option<&Span>) {
        let message = format!("{} lacks `{}`", shown(block), key.name);
        self.faults.push(
            Diagnostic::new("recipe/missing-key", message)
                .primary(holder, key.about)
                .help(format!("add `{}`, {}", key.name, values::phrase(&key.kind))),
        );
    }

    fn default(&mut self, key: &'static Key, text: &str) -> Entry {
        let outer = std::mem::replace(&mut self.in_default, true);
        let item = match tree::parse(text, Origin::Recipe, 0) {
            Ok(node) => {
                let span = node.span.clone();
                self.entry(key, &span, &node).item
            }
            Err(fault) => {
                self.faults.push(fault);
                Item {
                    span: None,
                    value: None,
                }
            }
        };
        self.in_default = outer;
        Entry {
            key,
            name: None,
            item,
        }
    }

    fn entry(&mut self, key: &'static Key, name: &Span, node: &Node) -> Entry {
        let value = self.value(key, &key.kind, node, name);
        Entry {
            key,
            name: self.place(Some(name)),
            item: Item {
                span: self.place(Some(values::place(node, name))),
                value,
            },
        }
    }

    fn value(
        &mut self,
        key: &'static Key,
        kind: &'static Kind,
        node: &Node,
        name: &Span,
    ) -> Option<Checked> {
        match kind {
            Kind::Block(block) => self.block(block, node, Some(name)),
            Kind::Short(block) => self.short(key, block, node, name),
            Kind::Choice(block) => self.choice(block, node, name),
            Kind::Moving(_, block) if matches!(node.value, YamlValue::Map(_)) => {
                self.block(block, node, Some(name))
            }
            Kind::List(of, min, max) => match &node.value {
                YamlValue::List(items) if (*min..=*max).contains(&items.len()) => {
                    Some(self.list(key, of, items))
                }
                // One path or word is a list of one.
                YamlValue::Text(_) if kind.takes_one() => {
                    Some(self.list(key, of, std::slice::from_ref(node)))
                }
                _ => self.refuse(values::mismatch(key, kind, node, name)),
            },
            Kind::Path(path_kind) => {
                let outer = self.outer.and_then(|outer| self.blocks.0.get(outer));
                let is_in = |name: &&str| outer.is_some_and(|outer| outer.block.name == *name);
                let folder = values::Folder {
                    path: self.folder,
                    may_be_absent: self.may_be_absent.iter().any(is_in),
                };
                let shown = self.stands_for.unwrap_or(key.name);
                match values::path(key, shown, *path_kind, node, name, folder) {
                    Ok(path) => Some(Checked::Path(path)),
                    Err(fault) => self.refuse(fault),
                }
            }
            _ => match values::scalar(kind, &node.value) {
                Some(value) => Some(value),
                None => self.refuse(values::mismatch(key, kind, node, name)),
            },
        }
    }

    /// A map of keys, or the value of the first key alone.
    fn short(
        &mut self,
        key: &'static Key,
        block: &'static Block,
        node: &Node,
        name: &Span,
    ) -> Option<Checked> {
        let is_value = |first: &&Key| match (&node.value, &first.kind) {
            // A map with the keys of a number that moves.
            (YamlValue::Map(written), Kind::Moving(_, ramp)) => {
                let is_of_ramp = |name: &str| ramp.names().any(|known| known == name);
                written
                    .first()
                    .is_some_and(|(name, _)| is_of_ramp(&name.text))
            }
            (YamlValue::Map(_), _) => false,
            _ => true,
        };
        let Some(first) = block.iter().next().filter(is_value) else {
            return self.block(block, node, Some(name));
        };
        let first = tree::Name {
            span: name.clone(),
            text: first.name.to_owned(),
        };
        let node = Node {
            span: node.span.clone(),
            value: YamlValue::Map(vec![(first, node.clone())]),
        };
        let outer = self.stands_for.replace(key.name);
        let read = self.block(block, &node, Some(name));
        self.stands_for = outer;
        read
    }

    fn list(&mut self, key: &'static Key, of: &'static Kind, items: &[Node]) -> Checked {
        let items = items.iter().map(|node| {
            let name = match &node.value {
                YamlValue::Map(entries) => entries.first().map(|(name, _)| &name.span),
                _ => None,
            };
            let name = name.unwrap_or(&node.span);
            Item {
                value: self.value(key, of, node, name),
                span: self.place(Some(values::place(node, name))),
            }
        });
        Checked::List(items.collect())
    }

    /// Exactly one variant: `{variant: ...}`, or a bare word if the variant has no keys; then the keys beside it.
    fn choice(&mut self, block: &'static Block, node: &Node, holder: &Span) -> Option<Checked> {
        let keys: Vec<&Key> = block.iter().filter(|key| !key.is_variant()).collect();
        let is_variant = |(name, _): &(tree::Name, Node)| {
            let mut variants = block.variants();
            variants.any(|variant| variant.name == name.text)
        };
        let (variant, beside) = match &node.value {
            YamlValue::Map(written) => {
                let (variants, others): (Vec<_>, Vec<_>) =
                    written.iter().cloned().partition(is_variant);
                // Without a variant or a key that may stand beside it, what is written is meant as a variant.
                let is_known =
                    |(name, _): &(tree::Name, Node)| keys.iter().any(|key| key.name == name.text);
                if keys.is_empty() || variants.is_empty() && !others.iter().any(is_known) {
                    (node.clone(), Vec::new())
                } else {
                    let value = YamlValue::Map(variants);
                    (
                        Node {
                            value,
                            ..node.clone()
                        },
                        others,
                    )
                }
            }
            _ => (node.clone(), Vec::new()),
        };
        let has_unknown = self.names(block, &beside);
        let place = self.open(block, Some(holder), has_unknown);
        let outer = self.outer.replace(place);
        let chosen = self.chosen(block, &variant, holder);
        let beside = self.fill((block, Some(holder)), keys.into_iter(), &beside);
        self.outer = outer;
        self.close(place, chosen.into_iter().chain(beside).collect())
    }

    fn chosen(&mut self, block: &'static Block, node: &Node, holder: &Span) -> Option<Entry> {
        let entry = match &node.value {
            YamlValue::Text(word) => {
                let name = tree::Name {
                    span: node.span.clone(),
                    text: word.clone(),
                };
                let bare = Node {
                    span: node.span.clone(),
                    value: YamlValue::Null,
                };
                self.variant(block, &name, &bare)?
            }
            YamlValue::Map(written) => match written.as_slice() {
                [(name, node)] => self.variant(block, name, node)?,
                [] => return self.refuse(variants(block, "but has none of them", holder)),
                [(first, _), (second, _), ..] => {
                    let count = format!("but has {} keys", written.len());
                    let fault = variants(block, &count, &second.span);
                    return self.refuse(fault.secondary(&first.span, ""));
                }
            },
            _ => {
                let found = format!("but is {}", values::describe(node));
                return self.refuse(variants(block, &found, values::place(node, holder)));
            }
        };
        Some(entry)
    }

    fn variant(&mut self, block: &'static Block, name: &tree::Name, node: &Node) -> Option<Entry> {
        match block.variants().find(|key| key.name == name.text) {
            Some(key) => Some(self.entry(key, &name.span, node)),
            None => self.refuse(unknown_variant(block, name)),
        }
    }

    fn unknown_key(&self, block: &'static Block, name: &tree::Name) -> Diagnostic {
        let shown = shown(block);
        let message = format!("unknown key `{}` in {shown}", name.text);
        let listed = most_similar(&name.text, block);
        let known = match block.names().count() {
            count if count > listed.len() => {
                format!(
                    "{shown} has {count} keys, such as {}; `alambic schema` lists all",
                    code_list(listed)
                )
            }
            _ => format!("{shown} has {}", code_list(listed)),
        };
        let fault = Diagnostic::new("recipe/unknown-key", message).primary(&name.span, known);
        if let Some(word) = meant(&name.text, block.iter().map(Key::spelling)) {
            return fault.help(format!("write `{word}`"));
        }
        match meant_elsewhere(&name.text, self.root) {
            Some((key, block)) => {
                fault.help(format!("`{}` is a key of {}", key.name, self::shown(block)))
            }
            None => fault,
        }
    }

    fn refuse<T>(&mut self, fault: Diagnostic) -> Option<T> {
        self.faults.push(fault);
        None
    }

    fn place(&self, span: Option<&Span>) -> Option<Span> {
        span.filter(|_| !self.in_default).cloned()
    }
}

fn unknown_variant(block: &'static Block, name: &tree::Name) -> Diagnostic {
    let (id, message) = (
        format!("recipe/unknown-{}", block.name),
        format!("`{}` is not a {}", values::short(&name.text), block.name),
    );
    let known = format!("known: {}", code_list(variant_names(block)));
    let fault = Diagnostic::new(&id, message).primary(&name.span, known);
    match meant(&name.text, block.iter().map(Key::spelling)) {
        Some(word) => fault.help(format!("write `{word}`")),
        None => fault,
    }
}

fn variants(block: &'static Block, found: &str, span: &Span) -> Diagnostic {
    let message = format!(
        "a {} is one of {}, {found}",
        block.name,
        code_list(variant_names(block))
    );
    Diagnostic::new("recipe/wrong-type", message).primary(span, "write one of them")
}

fn variant_names(block: &'static Block) -> impl Iterator<Item = &'static str> {
    block.variants().map(|key| key.name)
}

/// Name of a block in a sentence.
fn shown(block: &'static Block) -> String {
    if block.name.contains(' ') {
        block.name.to_owned()
    } else {
        format!("`{}`", block.name)
    }
}
