//! Command lines that can be pasted into a POSIX shell.

/// Quotes a word for a shell: unchanged, or in single quotes if it has special characters.
pub fn quoted(word: &str) -> String {
    let is_plain = |letter: char| letter.is_alphanumeric() || "/._-=@:".contains(letter);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn a_shell_reads_each_word_as_it_was() {
        for (word, want) in [
            ("recipes/quickstart.yaml", "recipes/quickstart.yaml"),
            ("seed=2", "seed=2"),
            ("org/name@v1:Q4_K_M", "org/name@v1:Q4_K_M"),
            ("", "''"),
            ("two words", "'two words'"),
            ("it's $HOME", r"'it'\''s $HOME'"),
            ("a[0]", "'a[0]'"),
        ] {
            assert_eq!(quoted(word), want);
        }
    }
}
