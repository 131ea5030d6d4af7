//! `alambic fetch`: a model or data of a hub into the cache that Python programs share.

use std::sync::atomic::Ordering;

use clap::Args;
use serde_json::json;

use super::Failure;
use super::commands::{Output, stop_on_signals};
use crate::data::SourcePlan;
use crate::fetched::{self, HubItem, Missing};
use crate::hub::{HubError, HubId};

pub(super) const EXAMPLES: &str = "\
Examples:
  alambic fetch HuggingFaceTB/SmolLM2-135M
  alambic fetch HuggingFaceTB/SmolLM2-135M@main
  alambic fetch unsloth/SmolLM2-135M-Instruct-GGUF:Q4_K_M
  alambic fetch HuggingFaceTB/smoltalk --dataset --config all --split train";

#[derive(Debug, Args)]
pub(super) struct FetchArgs {
    /// Id on the hub: OWNER/NAME, perhaps with @REVISION (branch, tag or commit) and, for a GGUF file, :QUANTISATION
    id: String,
    /// Fetch data instead of a model
    #[arg(long)]
    dataset: bool,
    /// Fetch one configuration of the data
    #[arg(long, requires = "dataset")]
    config: Option<String>,
    /// Fetch one split of the data
    #[arg(long, requires = "dataset")]
    split: Option<String>,
}

impl FetchArgs {
    fn item(&self) -> HubItem {
        let (config, split) = (self.config.clone(), self.split.clone());
        match (self.dataset, config.is_some() || split.is_some()) {
            (false, _) => HubItem::Model,
            (true, false) => HubItem::AllRows,
            (true, true) => HubItem::Rows(SourcePlan {
                split,
                config,
                ..SourcePlan::default()
            }),
        }
    }
}

pub(super) fn execute(args: &FetchArgs, output: &mut Output<'_>) -> Result<(), Failure> {
    let id = HubId::parse(&args.id).map_err(|why| HubError::NoId {
        text: args.id.clone(),
        why,
    })?;
    let stop = stop_on_signals()?;
    let stop = || stop.load(Ordering::Relaxed);
    let snapshot = fetched::fetch(&id, &args.item(), Missing::Fetch, &stop)?;
    let path = snapshot.path.display().to_string();
    let facts = json!({ "id": args.id, "path": path, "commit": snapshot.commit });
    output.print(&path, &facts)
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
