//! Settings that all programs of the hub share, from the environment: cache, endpoint, token, offline.
//!
//! Names, defaults and meanings are those of `huggingface_hub` (`constants.py`, 2.4), so that both find the same folder.

use std::env;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::error::HubError;
use crate::files;

/// The public hub.
pub(super) const PUBLIC: &str = "https://huggingface.co";

/// Longest time without a byte before a connection counts as cut. `huggingface_hub` waits 10 s, and retries.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Settings of a [`Hub`](super::Hub).
#[derive(Debug, Clone)]
pub struct Settings {
    /// Folder of all cached repositories.
    pub cache: PathBuf,
    /// Address of the hub, without a slash at its end.
    pub endpoint: String,
    /// Secret of the account, if there is one.
    pub token: Option<Secret>,
    /// True if the network is not to be used.
    pub offline: bool,
    /// Longest time without a byte.
    pub timeout: Duration,
    /// Number and length of the waits between repeated requests.
    pub patience: Patience,
    /// True if the proxy that the environment names is used.
    pub proxy: bool,
}

/// A secret: no message shows it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Value of the header `Authorization`.
    pub(super) fn header(&self) -> String {
        format!("Bearer {}", self.0)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Secret(…)")
    }
}

/// Retries of a request that failed for a reason that may pass.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Tries in all, counted anew whenever bytes have come.
    pub attempts: u32,
    /// Wait before the second try; each later one is twice as long.
    pub first_wait: Duration,
    /// Longest wait; a hub that asks for a longer one is not waited for.
    pub longest_wait: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            attempts: 6,
            first_wait: Duration::from_secs(1),
            longest_wait: Duration::from_mins(5), // the window of the hub's rate limits
        }
    }
}

impl Settings {
    /// Settings from the environment of the process, and the token's file.
    pub fn from_env() -> Result<Self, HubError> {
        // The cache is shared with other programs, and a token is not for a recipe: these settings are not the recipe's.
        Self::of(|name| env::var_os(name).map(|value| value.to_string_lossy().into_owned()))
    }

    /// Settings from variables; an empty one counts as not set.
    pub fn of(variable: impl Fn(&str) -> Option<String>) -> Result<Self, HubError> {
        let get = |name: &str| variable(name).filter(|value| !value.is_empty());
        let home = get("HOME").map(PathBuf::from);
        let folder = |value: String| expanded(&value, home.as_deref(), &variable);
        let hub_home = match (get("HF_HOME"), get("XDG_CACHE_HOME")) {
            (Some(named), _) => folder(named),
            (None, Some(named)) => folder(named).join("huggingface"),
            (None, None) => folder("~/.cache/huggingface".to_owned()),
        };
        let cache = get("HF_HUB_CACHE").or_else(|| get("HUGGINGFACE_HUB_CACHE"));
        let endpoint = get("HF_ENDPOINT").unwrap_or_else(|| PUBLIC.to_owned());
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        let is_true = |name: &str| get(name).is_some_and(|value| is_true(&value));
        let token_file = get("HF_TOKEN_PATH").map_or_else(|| hub_home.join("token"), folder);
        let token = if is_true("HF_HUB_DISABLE_IMPLICIT_TOKEN") {
            None
        } else {
            match get("HF_TOKEN").or_else(|| get("HUGGING_FACE_HUB_TOKEN")) {
                Some(text) => token("HF_TOKEN", &text)?,
                None => token("HF_TOKEN_PATH", &read_token(&token_file)?)?,
            }
        };
        let offline = get("HF_HUB_OFFLINE").or_else(|| get("TRANSFORMERS_OFFLINE"));
        let timeout =
            get("HF_HUB_DOWNLOAD_TIMEOUT").and_then(|secs| secs.trim().parse::<u64>().ok());
        let timeout = timeout.filter(|secs| *secs > 0).map(Duration::from_secs);
        Ok(Self {
            cache: cache.map_or_else(|| hub_home.join("hub"), folder),
            endpoint,
            token,
            offline: offline.is_some_and(|value| self::is_true(&value)),
            timeout: timeout.unwrap_or(TIMEOUT),
            patience: Patience::default(),
            proxy: true,
        })
    }
}

/// Words that `huggingface_hub` takes for true.
fn is_true(value: &str) -> bool {
    ["1", "ON", "YES", "TRUE"].contains(&value.to_ascii_uppercase().as_str())
}

/// A path with the home folder in the place of `~`, then the values of variables in the place of `$NAME` and `${NAME}`, as
/// `expanduser` and `expandvars` of Python have it: a variable that is not set stays as it is written.
fn expanded(
    value: &str,
    home: Option<&Path>,
    variable: impl Fn(&str) -> Option<String>,
) -> PathBuf {
    let home = home.unwrap_or_else(|| Path::new("/")); // as Python does without `HOME` and password file
    let path = match value.strip_prefix('~') {
        Some(inside) if inside.is_empty() || inside.starts_with('/') => {
            let home = home.display().to_string();
            let whole = format!("{}{inside}", home.trim_end_matches('/'));
            if whole.is_empty() { home } else { whole }
        }
        _ => value.to_owned(),
    };
    let mut parts = path.split('$');
    let mut expanded = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let is_of_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
        let (name, rest) = match part.strip_prefix('{').and_then(|part| part.split_once('}')) {
            Some(braced) => braced,
            None => part.split_at(
                part.find(|letter| !is_of_name(letter))
                    .unwrap_or(part.len()),
            ),
        };
        match variable(name).filter(|_| !name.is_empty()) {
            Some(value) => expanded.extend([&value, rest]),
            None => expanded.extend(["$", part]),
        }
    }
    PathBuf::from(expanded)
}

fn read_token(path: &Path) -> Result<String, HubError> {
    match files::read_to_string(path) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(HubError::of_cache(path, error)),
    }
}

/// A token without the ends of lines that files have; `None` if it is empty.
fn token(name: &'static str, text: &str) -> Result<Option<Secret>, HubError> {
    let text = text.replace(['\r', '\n'], "");
    let text = text.trim();
    if text.is_empty() {
        return Ok(None);
    }
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        let why = "a token has letters, digits and signs, without spaces".to_owned();
        return Err(HubError::Setting { name, why });
    }
    Ok(Some(Secret(text.to_owned())))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn of(variables: &[(&str, &str)]) -> Settings {
        tried(variables).unwrap()
    }

    fn tried(variables: &[(&str, &str)]) -> Result<Settings, HubError> {
        Settings::of(|name| {
            let found = variables.iter().find(|(other, _)| *other == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn the_cache_is_where_python_has_it() {
        for (variables, cache) in [
            (vec![("HOME", "/h")], "/h/.cache/huggingface/hub"),
            (
                vec![("HOME", "/h"), ("XDG_CACHE_HOME", "/x")],
                "/x/huggingface/hub",
            ),
            (vec![("HOME", "/h"), ("HF_HOME", "~/f")], "/h/f/hub"),
            (
                vec![("HF_HOME", "/f"), ("HUGGINGFACE_HUB_CACHE", "/old")],
                "/old",
            ),
            (vec![("HF_HOME", "/f"), ("HF_HUB_CACHE", "/c")], "/c"),
            (vec![("HF_HOME", "/f"), ("HF_HUB_CACHE", "")], "/f/hub"),
            (vec![("HOME", "/h"), ("HF_HOME", "~")], "/h/hub"),
            (
                vec![
                    ("HOME", "/h"),
                    ("HF_HOME", "~/$A/${B}x$C/$"),
                    ("A", "a$B"),
                    ("B", "b"),
                ],
                "/h/a$B/bx$C/$/hub",
            ),
            (
                vec![("HOME", "/h"), ("HF_HOME", "~other/f")],
                "~other/f/hub",
            ),
        ] {
            assert_eq!(of(&variables).cache, Path::new(cache), "{variables:?}");
        }
        let plain = of(&[("HOME", "/nowhere")]);
        assert_eq!(plain.endpoint, "https://huggingface.co");
        assert!(!plain.offline && plain.token.is_none() && plain.proxy);
        let mirror = of(&[("HF_ENDPOINT", "https://mirror.example/hf/")]);
        assert_eq!(mirror.endpoint, "https://mirror.example/hf");
    }

    #[test]
    fn offline_is_what_python_takes_for_true() {
        for (value, offline) in [
            ("1", true),
            ("yes", true),
            ("True", true),
            ("on", true),
            ("0", false),
            ("false", false),
            ("2", false),
            ("", false),
        ] {
            assert_eq!(of(&[("HF_HUB_OFFLINE", value)]).offline, offline, "{value}");
        }
        assert!(of(&[("TRANSFORMERS_OFFLINE", "1")]).offline);
        assert!(!of(&[("HF_HUB_OFFLINE", "0"), ("TRANSFORMERS_OFFLINE", "1")]).offline);
    }

    #[test]
    fn the_token_is_of_the_variable_or_of_its_file_and_is_never_shown() {
        let dir = tempfile::tempdir().unwrap();
        files::write_atomically(&dir.path().join("token"), |out| {
            out.write_all(b"hf_file\r\n")
        })
        .unwrap();
        let home = dir.path().to_str().unwrap();
        let header = |variables: &[(&str, &str)]| of(variables).token.map(|token| token.header());
        assert_eq!(
            header(&[("HF_HOME", home)]).as_deref(),
            Some("Bearer hf_file")
        );
        let both = [("HF_HOME", home), ("HF_TOKEN", " hf_own\n")];
        assert_eq!(header(&both).as_deref(), Some("Bearer hf_own"));
        let broken = [("HF_TOKEN", "hf_\r\nown")];
        assert_eq!(header(&broken).as_deref(), Some("Bearer hf_own"));
        let without = [both[0], both[1], ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")];
        assert_eq!(header(&without), None);
        let other = dir.path().join("other");
        fs::copy(dir.path().join("token"), &other).unwrap();
        assert_eq!(
            header(&[("HF_TOKEN_PATH", other.to_str().unwrap())]).as_deref(),
            Some("Bearer hf_file")
        );
        assert!(!format!("{:?}", of(&both)).contains("hf_own"));
        let told = tried(&[("HF_TOKEN", "hf own")]).unwrap_err().to_string();
        assert!(
            told.contains("`HF_TOKEN`") && !told.contains("hf own"),
            "{told}"
        );
    }
}
