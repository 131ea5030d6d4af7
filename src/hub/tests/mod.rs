//! The hub against servers on loopback: nothing leaves this machine.

mod bad;
mod resume;
mod server;

use std::collections::BTreeSet;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use self::server::{COMMIT, FakeHub, Reply, TOKEN, etag};
use super::*;

const INDEX: &str = r#"{"weight_map": {"x": "model-00001-of-00002.safetensors", "y": "model-00002-of-00002.safetensors"}}"#;
const SHARD: &str = "model-00002-of-00002.safetensors";
const OTHER: &str = "bbbbbbbbbbccccccccccddddddddddeeeeeeeeee";

/// Bytes that differ from place to place.
fn bytes(num: usize) -> Vec<u8> {
    (0..num)
        .map(|idx| u8::try_from(idx * 31 % 251).unwrap())
        .collect()
}

/// A hub with a sharded model, and much that is not read.
fn model_hub() -> FakeHub {
    FakeHub::new(&[
        ("config.json", b"{}"),
        ("additional_chat_templates/rag.jinja", b"{{ x }}"),
        ("model.safetensors.index.json", INDEX.as_bytes()),
        ("model-00001-of-00002.safetensors", b"first"),
        (SHARD, &bytes(700_000)),
        ("pytorch_model.bin", b"pickle"),
        ("m-Q4_0.gguf", b"gguf"),
    ])
}

/// A cache, and settings for it.
struct Desk {
    dir: TempDir,
    settings: Settings,
}

impl Desk {
    fn new(hub: &FakeHub) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let settings = settings(&hub.endpoint, dir.path());
        Self { dir, settings }
    }

    fn path(&self, inside: &str) -> PathBuf {
        self.dir.path().join("hub/models--a--b").join(inside)
    }

    fn model(&self, id: &str) -> Result<Snapshot, HubError> {
        let hub = Hub::new(self.settings.clone())?;
        hub.model(&HubId::parse(id).unwrap(), &mut on)
    }

    /// Fetches `a/b`, and tells of its progress.
    fn watched(&self, watch: Watch<'_>) -> Result<Snapshot, HubError> {
        let hub = Hub::new(self.settings.clone())?;
        hub.model(&HubId::parse("a/b").unwrap(), watch)
    }

    fn offline(&self) -> Self {
        let settings = Settings {
            offline: true,
            ..self.settings.clone()
        };
        let dir = tempfile::tempdir().unwrap();
        Self { dir, settings }
    }
}

fn settings(endpoint: &str, home: &Path) -> Settings {
    let settings = Settings::of(|name| match name {
        "HF_ENDPOINT" => Some(endpoint.to_owned()),
        "HF_HOME" => Some(home.to_str().unwrap().to_owned()),
        "HF_TOKEN" => Some(TOKEN.to_owned()),
        _ => None,
    });
    Settings {
        patience: Patience {
            attempts: 3,
            first_wait: Duration::from_millis(1),
            longest_wait: Duration::from_secs(2),
        },
        proxy: false, // whatever the machine of the test has
        ..settings.unwrap()
    }
}

fn on(_: HubEvent<'_>) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

#[test]
fn a_model_lies_in_the_cache_as_python_lays_it_out() {
    let hub = model_hub();
    let desk = Desk::new(&hub);
    let mut last = None;
    let snapshot = desk.watched(&mut |event| {
        if let HubEvent::Bytes { done, total, .. } = event {
            assert!(
                done <= total && total >= 107,
                "known from the first byte on"
            );
            last = Some((done, total));
        }
        ControlFlow::Continue(())
    });
    let snapshot = snapshot.unwrap();
    assert_eq!(
        (snapshot.commit.as_str(), snapshot.notes.len()),
        (COMMIT, 0)
    );
    assert_eq!(snapshot.path, desk.path("snapshots").join(COMMIT));
    assert_eq!(last, Some((700_005, 700_005)), "of the weights");

    assert_eq!(fs::read(desk.path("refs/main")).unwrap(), COMMIT.as_bytes());
    assert_eq!(fs::read(snapshot.path.join(SHARD)).unwrap(), bytes(700_000));
    let link = |file: &str| fs::read_link(snapshot.path.join(file)).unwrap();
    assert_eq!(
        link("config.json"),
        Path::new("../../blobs").join(etag("config.json", b"{}"))
    );
    assert_eq!(
        link(SHARD),
        Path::new("../../blobs").join(etag(SHARD, &bytes(700_000)))
    );
    let template = "additional_chat_templates/rag.jinja";
    assert_eq!(
        link(template),
        Path::new("../../../blobs").join(etag(template, b"{{ x }}"))
    );

    let names = |folder: PathBuf| -> BTreeSet<String> {
        fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    };
    assert_eq!(
        names(snapshot.path.clone()).len(),
        5,
        "no pickle, no GGUF file"
    );
    assert_eq!(names(desk.path("blobs")).len(), 5, "no part is left");
    assert_eq!(
        names(desk.dir.path().join("hub")),
        [".locks", "CACHEDIR.TAG", "models--a--b"]
            .map(str::to_owned)
            .into()
    );
}

#[test]
fn what_is_there_is_not_fetched_again() {
    let hub = model_hub();
    let desk = Desk::new(&hub);
    let first = desk.model("a/b").unwrap();
    assert!(hub.seen("").len() > 5);
    assert_eq!(desk.model("a/b").unwrap(), first);
    assert_eq!(hub.seen("").len(), 1, "the commit of `main` is asked for");
    assert_eq!(desk.model(&format!("a/b@{COMMIT}")).unwrap(), first);
    assert_eq!(hub.seen("").len(), 0, "a commit does not move");

    // A new commit shares the contents that have not changed.
    hub.move_to(OTHER);
    hub.put("config.json", b"{\"new\": 1}");
    let moved = desk.model("a/b").unwrap();
    assert_eq!(moved.commit, OTHER);
    assert!(
        moved.notes[0].contains("aaaaaaaaaa to bbbbbbbbbb")
            && moved.notes[0].contains(&format!("`a/b@{COMMIT}`")),
        "{:?}",
        moved.notes
    );
    assert_eq!(hub.seen("/cdn/").len(), 0);
    assert_eq!(
        fs::read(moved.path.join("config.json")).unwrap(),
        b"{\"new\": 1}"
    );
    assert_eq!(fs::read(first.path.join("config.json")).unwrap(), b"{}");
    assert_eq!(fs::read(desk.path("refs/main")).unwrap(), OTHER.as_bytes());
    assert_eq!(desk.model("a/b").unwrap().notes.len(), 0, "told once");
}

#[test]
fn the_token_stays_at_the_hub() {
    let hub = model_hub();
    let desk = Desk::new(&hub);
    desk.model("a/b").unwrap();
    let seen = hub.seen("");
    let (cdn, own): (Vec<_>, Vec<_>) = seen
        .into_iter()
        .partition(|seen| seen.path.starts_with("/cdn/"));
    assert_eq!(cdn.len(), 2);
    assert!(
        cdn.iter().all(|seen| seen.authorization.is_none()),
        "{cdn:?}"
    );
    let token = format!("Bearer {TOKEN}");
    assert!(
        own.iter()
            .all(|seen| seen.authorization.as_ref() == Some(&token)),
        "{own:?}"
    );
}

#[test]
fn a_renamed_repository_is_followed_on_the_same_host() {
    let hub = model_hub();
    let to = "/api/models/a/b/revision/main?blobs=true";
    hub.plan(
        "/api/models/old/name",
        1,
        Reply::of(307, &[("Location", to)], b""),
    );
    let desk = Desk::new(&hub);
    assert_eq!(desk.model("old/name").unwrap().commit, COMMIT);
    let seen = hub.seen("/api/");
    assert!(
        seen.len() == 2 && seen.iter().all(|seen| seen.authorization.is_some()),
        "{seen:?}"
    );
}

#[test]
fn one_gguf_file_is_fetched_alone() {
    let hub = model_hub();
    let desk = Desk::new(&hub);
    let snapshot = desk.model("a/b@v1:q4_0").unwrap();
    assert_eq!(
        snapshot.path,
        desk.path("snapshots").join(COMMIT).join("m-Q4_0.gguf")
    );
    assert_eq!(fs::read(&snapshot.path).unwrap(), b"gguf");
    assert_eq!(
        hub.seen("/resolve/")
            .iter()
            .filter(|seen| seen.method == "HEAD")
            .count(),
        1
    );
    assert_eq!(fs::read(desk.path("refs/v1")).unwrap(), COMMIT.as_bytes());
}

#[test]
fn of_a_dataset_the_chosen_files_are_fetched_after_its_readme() {
    let hub = FakeHub::new(&[
        ("README.md", b"---\n"),
        ("a/train.parquet", b"1"),
        ("b/train.parquet", b"2"),
        ("script.py", b"x"),
    ]);
    let desk = Desk::new(&hub);
    let reference = HubId::parse("a/b@refs/pr/1").unwrap();
    let choose = |folder: &Path, files: &[HubFile]| {
        let names: Vec<&str> = files.iter().map(|file| file.path.as_str()).collect();
        let all = [
            "README.md",
            "a/train.parquet",
            "b/train.parquet",
            "script.py",
        ];
        assert_eq!(names, all);
        assert_eq!(files[1].num_bytes, Some(1));
        assert_eq!(fs::read(folder.join("README.md")).unwrap(), b"---\n");
        Ok(vec![names[1].to_owned()])
    };
    let fetched = Hub::new(desk.settings.clone()).unwrap();
    let wanted = fetched.open(&reference, RepoPart::Data(&choose), &mut on);
    let snapshot = wanted.unwrap().fetch(&mut on).unwrap();
    assert!(
        snapshot
            .path
            .starts_with(desk.dir.path().join("hub/datasets--a--b/snapshots"))
    );
    assert!(snapshot.path.join("a/train.parquet").is_file() && !snapshot.path.join("b").exists());
    assert_eq!(
        fs::read(desk.dir.path().join("hub/datasets--a--b/refs/refs/pr/1")).unwrap(),
        COMMIT.as_bytes()
    );
    assert_eq!(hub.seen("HEAD /datasets/a/b/resolve/").len(), 2);
}

#[test]
fn offline_the_cache_is_used_and_what_is_missing_is_named() {
    let hub = model_hub();
    let desk = Desk::new(&hub);
    let first = desk.model("a/b").unwrap();
    hub.seen("");
    let offline = desk.offline();
    assert_eq!(offline.model("a/b").unwrap(), first);
    fs::remove_file(first.path.join(SHARD)).unwrap();
    let error = offline.model("a/b").unwrap_err();
    assert!(
        error.to_string().contains(&format!("`{SHARD}` is missing")),
        "{error}"
    );
    assert_eq!(error.id(), "hub/offline");
    for (id, missing) in [
        ("a/b@v1", "the commit of `v1`"),
        ("a/c", "the commit of `main`"),
        (&format!("a/b@{OTHER}"), "commit bbbbbbbbbb"),
    ] {
        let told = offline.model(id).unwrap_err().to_string();
        assert!(told.contains(missing), "{told}");
    }
    assert_eq!(hub.seen("").len(), 0);
}

#[test]
fn a_cache_that_another_program_has_filled_is_used_by_its_files_or_its_list() {
    let hub = FakeHub::new(&[]);
    let desk = Desk::new(&hub);
    let snapshot = desk.path("snapshots").join(COMMIT);
    let put = |path: &Path, bytes: &[u8]| {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        files::write_atomically(path, |out| out.write_all(bytes)).unwrap();
    };
    put(&desk.path("refs/main"), COMMIT.as_bytes());
    put(&snapshot.join("config.json"), b"{}");
    let offline = desk.offline();
    let told = offline.model("a/b").unwrap_err().to_string();
    assert!(told.contains("weights are missing"), "{told}");
    put(&snapshot.join("model.safetensors"), b"x");
    let found = offline.model("a/b").unwrap();
    assert_eq!((found.path, found.commit.as_str()), (snapshot, COMMIT));
    assert!(found.notes[0].contains("no list"), "{:?}", found.notes);
    let listing = r#"{"format_version": 1, "files": {"config.json": {"size": 2, "blob_id": "0"}, "generation_config.json": {"size": 2, "blob_id": "1"}, "model.safetensors": {"size": 1, "blob_id": "2", "lfs_sha256": "3", "lfs_size": 1, "xet_hash": "4"}}}"#;
    put(
        &desk.path(&format!("trees/{COMMIT}.json")),
        listing.as_bytes(),
    );
    let told = offline.model("a/b").unwrap_err().to_string();
    assert!(
        told.contains("`generation_config.json` is missing"),
        "{told}"
    );
}

#[test]
fn a_look_fetches_nothing_and_tells_how_much_there_is_to_fetch() {
    let hub = model_hub();
    let desk = Desk::new(&hub);
    let looking = Hub::new(desk.settings.clone()).unwrap().looking();
    let id = HubId::parse("a/b").unwrap();
    let look = |part: RepoPart<'_>| looking.open(&id, part, &mut on).unwrap().fetch(&mut on);
    let error = look(RepoPart::Model).unwrap_err();
    assert_eq!(error.id(), "hub/not-fetched");
    let told = error.to_string();
    let want = "`a/b` is not on this machine: 5 files of 683.7 KiB would be fetched";
    assert_eq!(told, want);
    assert_eq!(hub.seen("/resolve/").len(), 0);
    assert!(!desk.path("").exists(), "nothing is written");
    assert_eq!(looking.here(&id, RepoPart::Model).unwrap(), None);

    let whole = desk.model("a/b").unwrap();
    hub.seen("");
    assert_eq!(look(RepoPart::Model).unwrap(), whole);
    assert_eq!(hub.seen("").len(), 1);
    assert_eq!(
        looking.here(&id, RepoPart::Model).unwrap(),
        Some(whole.clone())
    );
    assert_eq!(hub.seen("").len(), 0);
    fs::remove_file(whole.path.join(SHARD)).unwrap();
    let told = look(RepoPart::Model).unwrap_err().to_string();
    assert!(
        told.contains("1 file of 0 B"),
        "its content is there: {told}"
    );
    assert_eq!(looking.here(&id, RepoPart::Model).unwrap(), None);
}

#[test]
fn of_a_tokenizer_no_weights_are_fetched() {
    let hub = model_hub();
    let desk = Desk::new(&hub);
    let own = Hub::new(desk.settings).unwrap();
    let fetch = |id: &str| {
        let id = HubId::parse(id).unwrap();
        own.open(&id, RepoPart::Tokenizer, &mut on)?.fetch(&mut on)
    };
    let told = fetch("a/b").unwrap_err().to_string();
    assert!(told.contains("no `tokenizer.json`"), "{told}");
    hub.put("tokenizer.json", b"{}");
    for id in ["a/b", "a/b:tokenizer.json"] {
        let snapshot = fetch(id).unwrap();
        assert!(snapshot.path.ends_with("tokenizer.json") && snapshot.path.is_file());
        assert!(!snapshot.path.with_file_name(SHARD).exists());
    }
    assert!(fetch("a/b:Q4_0").unwrap().path.ends_with("m-Q4_0.gguf"));
}
