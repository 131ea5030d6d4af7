//! `alambic fetch`: a model or data of a hub into the cache that Python programs share.

use std::ops::ControlFlow;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::json;

use super::Failure;
use super::commands::{Output, stop_on_signals};
use crate::hub::{Hub, HubError, HubEvent, HubId};
use crate::progress::{self, bytes_text};

pub(super) const EXAMPLES: &str = "\
Examples:
  alambic fetch HuggingFaceTB/SmolLM2-135M
  alambic fetch HuggingFaceTB/SmolLM2-135M@main
  alambic fetch unsloth/SmolLM2-135M-Instruct-GGUF:Q4_K_M
  alambic fetch HuggingFaceTB/smoltalk --dataset";

#[derive(Debug, Args)]
pub(super) struct FetchArgs {
    /// Id on the hub: OWNER/NAME, perhaps with @REVISION (branch, tag or commit) and, for a GGUF file, :QUANTISATION
    id: String,
    /// Fetch data instead of a model
    #[arg(long)]
    dataset: bool,
}

pub(super) fn execute(args: &FetchArgs, output: &mut Output<'_>) -> Result<(), Failure> {
    let id = HubId::parse(&args.id)
        .map_err(|error| Failure::input("hub/id", &format!("`{}`: {error}", args.id)))?;
    let hub = Hub::from_env()?;
    let stop = stop_on_signals()?;
    let mut told = Told::default();
    let mut watch = |event: HubEvent<'_>| {
        told.tell(event);
        if stop.load(Ordering::Relaxed) {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    };
    let snapshot = if args.dataset {
        hub.dataset(&id, |_, files| Ok(files), &mut watch)?
    } else {
        hub.model(&id, &mut watch)?
    };
    progress::log_notes(&snapshot.notes);
    let path = snapshot.path.display().to_string();
    let facts = json!({ "id": args.id, "path": path, "commit": snapshot.commit });
    output.print(&path, &facts)
}

/// Lines about a download, some seconds apart.
#[derive(Debug, Default)]
struct Told {
    last: Option<Instant>,
}

impl Told {
    /// Time between two lines.
    const INTERVAL: Duration = Duration::from_secs(5);

    fn tell(&mut self, event: HubEvent<'_>) {
        if self
            .last
            .is_some_and(|last| last.elapsed() < Self::INTERVAL)
        {
            return;
        }
        self.last = Some(Instant::now());
        progress::log(&match event {
            HubEvent::Bytes { done, total } => {
                format!("fetch: {} of {}", bytes_text(done), bytes_text(total))
            }
            HubEvent::Waits { left, why } => {
                format!("fetch: {why}; the next try is in {} s", left.as_secs() + 1)
            }
            HubEvent::Locked { file } => {
                format!("fetch: another program fetches `{file}`; waiting for it")
            }
        });
    }
}

impl From<HubError> for Failure {
    fn from(error: HubError) -> Self {
        if let HubError::Stopped = error {
            return Self::interrupted(&error);
        }
        let id = error.id();
        Self::input(id, &error).help(error.help())
    }
}
