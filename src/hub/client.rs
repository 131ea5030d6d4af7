//! Requests to a hub: addresses, redirects, retries, and what its refusals mean.

use std::io::Read;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use ureq::http::{HeaderMap, Uri};
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::{Agent, Body};

use super::error::HubError;
use super::id::{RepoKind, is_commit};
use super::settings::{PUBLIC, Patience, Secret, Settings};
use super::{HubEvent, Watch};

/// Time for a connection to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Tries of a request that the cache can do without.
const HASTY_ATTEMPTS: u32 = 2;

/// Most addresses that a request is sent on to.
const MAX_HOPS: usize = 10;

/// Longest list of files that is read; the list of 50,000 files takes a third of it.
const MAX_JSON_BYTES: u64 = 64 << 20;

/// Longest part of a wait between two looks at whether to go on.
const SLICE: Duration = Duration::from_millis(100);

/// Most characters of a server's words that a message repeats.
const MAX_TOLD: usize = 200;

/// Connections to one hub.
#[derive(Debug)]
pub(super) struct Client {
    agent: Agent,
    endpoint: String,
    token: Option<Secret>,
    patience: Patience,
}

/// Subject of a request; errors name it.
#[derive(Debug, Clone, Copy)]
pub(super) struct About<'a> {
    pub(super) id: &'a str,
    pub(super) kind: RepoKind,
    pub(super) revision: &'a str,
    pub(super) file: &'a str,
}

/// Answer of a server, whatever its status.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) url: String,
    headers: HeaderMap,
    body: Body,
}

/// A failed try.
pub(super) enum Failed {
    /// Trying again is no use.
    Final(HubError),
    /// Trying again may help, after the wait that the server asks for.
    Passing(HubError, Option<Duration>),
    /// It has come further than any try before.
    Advanced(HubError),
}

impl From<HubError> for Failed {
    fn from(error: HubError) -> Self {
        Self::Final(error)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Method {
    Get,
    Head,
}

impl Client {
    pub(super) fn new(settings: &Settings) -> Result<Self, HubError> {
        check_endpoint(&settings.endpoint)?;
        let roots = TlsConfig::builder().root_certs(roots()).build();
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0) // followed here, so that the token stays at the hub
            .user_agent(concat!("alambic/", env!("CARGO_PKG_VERSION")))
            .accept_encoding("identity") // sizes and hashes are of the files as they are
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_per_read(Some(settings.timeout))
            .tls_config(roots);
        if !settings.proxy {
            config = config.proxy(None);
        }
        Ok(Self {
            agent: config.build().new_agent(),
            endpoint: settings.endpoint.clone(),
            token: settings.token.clone(),
            patience: settings.patience,
        })
    }

    pub(super) fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// The same connections, with fewer tries: for what the cache may have.
    pub(super) fn hasty(&self) -> Self {
        let attempts = self.patience.attempts.min(HASTY_ATTEMPTS);
        Self {
            agent: self.agent.clone(),
            endpoint: self.endpoint.clone(),
            token: self.token.clone(),
            patience: Patience {
                attempts,
                ..self.patience
            },
        }
    }

    /// JSON of the API about a revision of a repository.
    pub(super) fn info<T: DeserializeOwned>(
        &self,
        about: About<'_>,
        watch: Watch<'_>,
    ) -> Result<T, HubError> {
        let (kind, id, revision) = (
            about.kind.plural(),
            about.id,
            encoded(about.revision, false),
        );
        let url = format!(
            "{}/api/{kind}/{id}/revision/{revision}?blobs=true",
            self.endpoint
        );
        self.patiently(watch, |_| {
            let answer = self.send(Method::Get, &url, None)?;
            let answer = self.accepted(answer, about)?;
            let (url, kind) = (
                answer.url.clone(),
                answer.header("content-type").unwrap_or_default(),
            );
            let not_a_hub = |why: String| HubError::NotAHub {
                url: url.clone(),
                why,
            };
            let bytes = answer
                .body
                .into_with_config()
                .limit(MAX_JSON_BYTES)
                .read_to_vec();
            let bytes = bytes.map_err(|error| no_answer(&url, &error))?;
            serde_json::from_slice(&bytes).map_err(|error| {
                let kind = told(&kind);
                Failed::Final(not_a_hub(if is_html(&kind, &bytes) {
                    "it sends a web page instead of JSON".to_owned()
                } else {
                    format!("it sends `{kind}` that is not the JSON of a repository ({error})")
                }))
            })
        })
    }

    /// Header of a file at a commit.
    pub(super) fn head(&self, about: About<'_>, watch: Watch<'_>) -> Result<Answer, HubError> {
        let url = self.file_url(about);
        self.patiently(watch, |_| {
            let answer = self.send(Method::Head, &url, None)?;
            self.accepted(answer, about)
        })
    }

    /// Bytes of a file at a commit, from `start` on; the status is 200, 206 or 416.
    pub(super) fn get(&self, about: About<'_>, start: u64) -> Result<Answer, Failed> {
        let range = Some(start).filter(|start| *start > 0);
        let answer = self.send(Method::Get, &self.file_url(about), range);
        let answer = answer?;
        if answer.status == 416 && range.is_some() {
            return Ok(answer);
        }
        self.accepted(answer, about)
    }

    fn file_url(&self, about: About<'_>) -> String {
        let (endpoint, prefix, id) = (&self.endpoint, about.kind.url_prefix(), about.id);
        let (revision, file) = (encoded(about.revision, false), encoded(about.file, true));
        format!("{endpoint}/{prefix}{id}/resolve/{revision}/{file}")
    }

    /// Repeats what may pass. Tries are counted anew after each that has come further.
    pub(super) fn patiently<T>(
        &self,
        watch: Watch<'_>,
        mut attempt: impl FnMut(Watch<'_>) -> Result<T, Failed>,
    ) -> Result<T, HubError> {
        let mut wait = self.patience.first_wait;
        let mut tries_left = self.patience.attempts;
        loop {
            tries_left = tries_left.saturating_sub(1);
            let (error, asked) = match attempt(&mut *watch) {
                Ok(done) => return Ok(done),
                Err(Failed::Final(error)) => return Err(error),
                Err(Failed::Passing(error, asked)) => (error, asked),
                Err(Failed::Advanced(error)) => {
                    (wait, tries_left) = (self.patience.first_wait, self.patience.attempts);
                    (error, None)
                }
            };
            let too_long = asked.is_some_and(|asked| asked > self.patience.longest_wait);
            if tries_left == 0 || too_long {
                return Err(error);
            }
            sleep(asked.unwrap_or(wait), &error, &mut *watch)?;
            wait = (wait * 2).min(self.patience.longest_wait);
        }
    }

    /// Sends a request, and follows where it is sent on to. The token goes to the hub alone: a delivery network has no use
    /// for it. A `HEAD` that is sent on to another host is answered by then.
    fn send(&self, method: Method, url: &str, start: Option<u64>) -> Result<Answer, Failed> {
        let mut url = url.to_owned();
        for _ in 0..MAX_HOPS {
            let answer = self.send_once(method, &url, start)?;
            let Some(target) = answer
                .header("location")
                .filter(|_| is_redirect(answer.status))
            else {
                return Ok(answer);
            };
            let Some(target) = joined(&url, &target) else {
                let why = "it sends the request on to an address that is none".to_owned();
                return Err(HubError::NotAHub { url, why }.into());
            };
            if method == Method::Head && !self.is_trusted(&target) {
                return Ok(answer);
            }
            url = target;
        }
        let why = format!("it sends the request on more than {MAX_HOPS} times");
        let url = shown(&url);
        Err(HubError::NotAHub { url, why }.into())
    }

    fn send_once(&self, method: Method, url: &str, start: Option<u64>) -> Result<Answer, Failed> {
        let mut request = match method {
            Method::Get => self.agent.get(url),
            Method::Head => self.agent.head(url),
        };
        if let Some(token) = self.token.as_ref().filter(|_| self.is_trusted(url)) {
            request = request.header("authorization", token.header());
        }
        if let Some(start) = start {
            request = request.header("range", format!("bytes={start}-"));
        }
        let response = request.call().map_err(|error| no_answer(url, &error))?;
        let (parts, body) = response.into_parts();
        Ok(Answer {
            status: parts.status.as_u16(),
            url: shown(url),
            headers: parts.headers,
            body,
        })
    }

    /// Tells whether the token may be sent to this address: to the hub that is set, and to the public one, which issued it.
    fn is_trusted(&self, url: &str) -> bool {
        let of = |url: &str| origin(&url.parse().ok()?);
        let target = of(url);
        target.is_some() && (target == of(&self.endpoint) || target == of(PUBLIC))
    }

    /// The answer, unless it is a refusal.
    fn accepted(&self, answer: Answer, about: About<'_>) -> Result<Answer, Failed> {
        if (200..300).contains(&answer.status) || is_redirect(answer.status) {
            return Ok(answer);
        }
        let wait = answer.wait();
        let status = answer.status;
        let error = self.refusal(answer, about);
        match status {
            408 | 429 | 500 | 502 | 503 | 504 => Err(Failed::Passing(error, wait)),
            _ => Err(Failed::Final(error)),
        }
    }

    /// Error that a refusal means: by the code that the hub gives, else by the status.
    fn refusal(&self, answer: Answer, about: About<'_>) -> HubError {
        let (endpoint, repo) = (self.endpoint.clone(), about.id.to_owned());
        let (code, message) = (
            answer.header("x-error-code"),
            answer.header("x-error-message"),
        );
        let (code, message) = (code.unwrap_or_default(), told(&message.unwrap_or_default()));
        let has_token = self.has_token();
        match (code.as_str(), answer.status) {
            ("GatedRepo", _) => HubError::Gated {
                page: format!("{endpoint}/{}{repo}", about.kind.url_prefix()),
                repo,
                has_token,
            },
            ("RevisionNotFound", _) => HubError::RevisionNotFound {
                repo,
                revision: about.revision.to_owned(),
            },
            ("EntryNotFound", _) => HubError::EntryNotFound {
                repo,
                file: about.file.to_owned(),
                commit: about.revision.to_owned(),
            },
            ("", 401) if message == "Invalid credentials in Authorization header" => {
                HubError::BadToken { endpoint }
            }
            ("RepoNotFound", _) | ("", 401) => HubError::RepoNotFound {
                repo,
                kind: about.kind.word(),
                endpoint,
                has_token,
            },
            _ if message == "Access to this resource is disabled." => {
                HubError::Disabled { repo, endpoint }
            }
            ("", 403) if answer.is_page() => HubError::NotAHub {
                url: answer.url,
                why: "it refuses with a web page (status 403)".to_owned(),
            },
            (_, 403) => HubError::Forbidden {
                repo,
                endpoint,
                told: message,
            },
            ("", 404) => HubError::NotAHub {
                url: answer.url,
                why: "nothing is at this address (status 404)".to_owned(),
            },
            (_, 429) => HubError::TooManyRequests {
                wait: answer.wait().map(|wait| wait.as_secs()),
                url: answer.url,
            },
            (_, status) => HubError::Status {
                url: answer.url,
                status,
                told: message,
            },
        }
    }
}

impl Answer {
    /// Text of a header.
    pub(super) fn header(&self, name: &str) -> Option<String> {
        let value = self.headers.get(name)?.to_str().ok()?;
        Some(value.trim().to_owned())
    }

    /// Number that is the whole text of a header.
    pub(super) fn number(&self, name: &str) -> Option<u64> {
        self.header(name)?.parse().ok()
    }

    /// Commit of the repository that the answer is of.
    pub(super) fn commit(&self) -> Option<String> {
        self.header("x-repo-commit")
            .filter(|commit| is_commit(commit))
    }

    /// True for a web page.
    pub(super) fn is_page(&self) -> bool {
        self.header("content-type")
            .is_some_and(|kind| kind.contains("html"))
    }

    pub(super) fn into_reader(self) -> impl Read {
        self.body.into_with_config().limit(u64::MAX).reader()
    }

    /// Wait that the server asks for: `Retry-After` in seconds, or the reset of a rate limit that is used up.
    fn wait(&self) -> Option<Duration> {
        let after = self.number("retry-after").or_else(|| {
            let limit = self.header("ratelimit")?; // "api";r=0;t=55
            let part = |key: &str| {
                limit
                    .split(';')
                    .find_map(|part| part.trim().strip_prefix(key)?.parse().ok())
            };
            part("t=").filter(|_: &u64| part("r=") == Some(0))
        });
        after.map(Duration::from_secs)
    }
}

/// Refuses an address without scheme and host, and one with more than a path behind them.
fn check_endpoint(endpoint: &str) -> Result<(), HubError> {
    let uri: Option<Uri> = endpoint.parse().ok();
    let refused = match uri.as_ref().filter(|uri| origin(uri).is_some()) {
        None => "it must begin with `https://` or `http://`, then a host",
        // Messages name the endpoint.
        Some(uri)
            if uri
                .authority()
                .is_some_and(|host| host.as_str().contains('@')) =>
        {
            "it has a user in it; a hub takes a token, from `HF_TOKEN`"
        }
        Some(uri) if uri.query().is_some() => "it must end with a host or a path",
        Some(_) => return Ok(()),
    };
    Err(HubError::Setting {
        name: "HF_ENDPOINT",
        why: refused.to_owned(),
    })
}

/// Certificates of the system, where companies add their own; those of the browsers where the system has none.
fn roots() -> RootCerts {
    let found = rustls_native_certs::load_native_certs().certs;
    if found.is_empty() {
        return RootCerts::WebPki;
    }
    let found = found
        .iter()
        .map(|der| Certificate::from_der(der).to_owned());
    RootCerts::Specific(Arc::new(found.collect()))
}

/// A failure before an answer came.
fn no_answer(url: &str, error: &ureq::Error) -> Failed {
    let is_final = matches!(
        error,
        ureq::Error::BadUri(_)
            | ureq::Error::Tls(_)
            | ureq::Error::Rustls(_)
            | ureq::Error::InvalidProxyUrl
    );
    let too_large = matches!(error, ureq::Error::BodyExceedsLimit(_));
    let error = if too_large {
        HubError::NotAHub {
            url: shown(url),
            why: format!("its answer takes more than {MAX_JSON_BYTES} bytes"),
        }
    } else {
        HubError::Unreachable {
            url: host(url),
            why: told(&error.to_string()),
        }
    };
    if is_final || too_large {
        Failed::Final(error)
    } else {
        Failed::Passing(error, None)
    }
}

/// Waits, and looks now and then whether to go on.
fn sleep(wait: Duration, error: &HubError, watch: Watch<'_>) -> Result<(), HubError> {
    let why = error.to_string();
    let since = Instant::now();
    loop {
        let left = wait.saturating_sub(since.elapsed());
        if let ControlFlow::Break(()) = watch(HubEvent::Waits { left, why: &why }) {
            return Err(HubError::Stopped);
        }
        if left.is_zero() {
            return Ok(());
        }
        thread::sleep(left.min(SLICE));
    }
}

fn is_redirect(status: u16) -> bool {
    matches!(status, 301 | 302 | 303 | 307 | 308)
}

/// Scheme, host and port.
fn origin(uri: &Uri) -> Option<(String, String, u16)> {
    let scheme = uri.scheme_str()?.to_ascii_lowercase();
    let port = match scheme.as_str() {
        "http" => 80,
        "https" => 443,
        _ => return None,
    };
    let host = uri
        .host()
        .filter(|host| !host.is_empty())?
        .to_ascii_lowercase();
    Some((scheme, host, uri.port_u16().unwrap_or(port)))
}

/// Address that a `Location` means, seen from the address that gave it.
fn joined(base: &str, target: &str) -> Option<String> {
    let uri: Uri = base.parse().ok()?;
    let (scheme, authority) = (uri.scheme_str()?, uri.authority()?);
    let target = match target {
        whole if whole.contains("://") && !whole.starts_with('/') => whole.to_owned(),
        other_host if other_host.starts_with("//") => format!("{scheme}:{other_host}"),
        path if path.starts_with('/') => format!("{scheme}://{authority}{path}"),
        _ => return None,
    };
    origin(&target.parse().ok()?).map(|_| target)
}

/// An address without its query: those of delivery networks hold a signature, which lets whoever has it read the file.
fn shown(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    told(url)
}

/// Scheme and host of an address.
fn host(url: &str) -> String {
    let url = shown(url);
    let mut parts = url.splitn(4, '/');
    let [scheme, _, host] =
        [parts.next(), parts.next(), parts.next()].map(Option::unwrap_or_default);
    format!("{scheme}//{host}")
}

/// A server's words on one line, without control characters, and not too long.
fn told(text: &str) -> String {
    let letters = text.chars().filter(|letter| !letter.is_control());
    letters.take(MAX_TOLD).collect::<String>().trim().to_owned()
}

fn is_html(kind: &str, bytes: &[u8]) -> bool {
    kind.contains("html") || bytes.trim_ascii_start().first() == Some(&b'<')
}

/// A text in a path of an address, percent-encoded; slashes stay if they part folders.
fn encoded(text: &str, keeps_slashes: bool) -> String {
    use std::fmt::Write;
    let mut encoded = String::new();
    for byte in text.bytes() {
        let is_plain = byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        if is_plain || (keeps_slashes && byte == b'/') {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}"); // writing to a text cannot fail
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_encoded_joined_and_shown_without_secrets() {
        assert_eq!(encoded("refs/pr/1", false), "refs%2Fpr%2F1");
        assert_eq!(encoded("a b/ü+%.json", true), "a%20b/%C3%BC%2B%25.json");
        let base = "https://hub.example:8443/a/resolve/main/x";
        for (target, want) in [
            ("/b/c?x=1", Some("https://hub.example:8443/b/c?x=1")),
            ("//cdn.example/d", Some("https://cdn.example/d")),
            ("http://cdn.example/d", Some("http://cdn.example/d")),
            (
                "/b?to=https://c.example/",
                Some("https://hub.example:8443/b?to=https://c.example/"),
            ),
            ("ftp://cdn.example/d", None),
            ("file:///etc/passwd", None),
            ("d", None),
        ] {
            assert_eq!(joined(base, target).as_deref(), want, "{target}");
        }
        assert_eq!(
            shown("https://c.example/d?Signature=secret#x"),
            "https://c.example/d"
        );
        assert_eq!(
            host("https://c.example:8/d?Signature=secret"),
            "https://c.example:8"
        );
        assert_eq!(told("a\u{1b}[31m\nb"), "a[31mb");
    }
}
