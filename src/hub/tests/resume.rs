//! Downloads that are cut, damaged, begun before, or wanted by two at once.

use std::env;
use std::process::Command;
use std::thread;

use super::server::sha256;
use super::*;

const FILE: &str = "model.safetensors";

fn hub(content: &[u8]) -> FakeHub {
    FakeHub::new(&[("config.json", b"{}"), (FILE, content)])
}

/// Path of the content while it is incomplete.
fn part(desk: &Desk, content: &[u8]) -> PathBuf {
    desk.path(&format!("blobs/{}.incomplete", sha256(content)))
}

fn put(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    files::write_atomically(path, |out| out.write_all(bytes)).unwrap();
}

/// The whole content in one answer, which is cut after some bytes.
fn cut(content: &[u8], after: usize) -> Reply {
    Reply {
        cut: Some(after),
        ..Reply::of(200, &[], content)
    }
}

fn ranges(hub: &FakeHub) -> Vec<Option<String>> {
    hub.seen("/cdn/")
        .into_iter()
        .map(|seen| seen.range)
        .collect()
}

fn assert_whole(desk: &Desk, content: &[u8]) {
    let path = desk.path("snapshots").join(COMMIT).join(FILE);
    assert_eq!(fs::read(path).unwrap(), content);
    assert!(!part(desk, content).exists());
}

#[test]
fn a_download_that_is_cut_goes_on_where_it_stopped() {
    let content = bytes(1_000_000);
    let hub = hub(&content);
    hub.plan("/cdn/", 1, cut(&content, 300_000));
    let desk = Desk::new(&hub);
    desk.model("a/b").unwrap();
    assert_whole(&desk, &content);
    assert_eq!(ranges(&hub), [None, Some("bytes=300000-".to_owned())]);
}

#[test]
fn a_download_of_an_earlier_process_goes_on() {
    let content = bytes(1_000_000);
    let hub = hub(&content);
    let desk = Desk::new(&hub);
    put(&part(&desk, &content), &content[..400_000]);
    desk.model("a/b").unwrap();
    assert_whole(&desk, &content);
    assert_eq!(ranges(&hub), [Some("bytes=400000-".to_owned())]);
}

#[test]
fn a_part_that_is_of_something_else_is_fetched_anew() {
    let content = bytes(100_000);
    for left in [vec![7; 50_000], vec![7; 100_000], vec![7; 200_000]] {
        let hub = hub(&content);
        let desk = Desk::new(&hub);
        put(&part(&desk, &content), &left);
        desk.model("a/b").unwrap();
        assert_whole(&desk, &content);
        assert_eq!(ranges(&hub).last(), Some(&None), "{}", left.len());
    }
}

#[test]
fn a_server_that_takes_no_ranges_begins_anew() {
    let content = bytes(100_000);
    let hub = hub(&content);
    hub.plan("/cdn/", 1, cut(&content, 30_000));
    hub.plan("/cdn/", 1, Reply::of(200, &[], &content));
    let desk = Desk::new(&hub);
    desk.model("a/b").unwrap();
    assert_whole(&desk, &content);
    assert_eq!(ranges(&hub).len(), 2);
}

#[test]
fn other_bytes_than_were_asked_for_are_refused() {
    let content = bytes(100_000);
    let hub = hub(&content);
    hub.plan("/cdn/", 1, cut(&content, 30_000));
    hub.plan(
        "/cdn/",
        1,
        Reply::of(
            206,
            &[("Content-Range", "bytes 5-99999/100000")],
            &content[5..],
        ),
    );
    let error = Desk::new(&hub).model("a/b").unwrap_err();
    assert!(error.to_string().contains("other bytes"), "{error}");
}

#[test]
fn a_download_that_comes_no_further_ends_and_keeps_its_part() {
    let content = bytes(100_000);
    let hub = hub(&content);
    hub.plan("/cdn/", 1, cut(&content, 30_000));
    let stuck = Reply {
        cut: Some(0),
        ..Reply::of(
            206,
            &[("Content-Range", "bytes 30000-99999/100000")],
            &content[30_000..],
        )
    };
    hub.plan("/cdn/", 9, stuck);
    let desk = Desk::new(&hub);
    let error = desk.model("a/b").unwrap_err();
    assert_eq!(error.id(), "hub/cut-short");
    assert!(
        error.to_string().contains("30000 of 100000 bytes"),
        "{error}"
    );
    assert_eq!(fs::read(part(&desk, &content)).unwrap(), &content[..30_000]);
    assert!(!desk.path("blobs").join(sha256(&content)).exists());
    assert!(
        !desk.path("refs/main").exists(),
        "the commit is not there yet"
    );
    assert_eq!(
        ranges(&hub).len(),
        4,
        "tries are counted anew after the first"
    );

    let fresh = FakeHub::new(&[("config.json", b"{}"), (FILE, &content)]);
    let settings = Settings {
        endpoint: fresh.endpoint,
        ..desk.settings.clone()
    };
    Hub::new(settings)
        .unwrap()
        .model(&HubId::parse("a/b").unwrap(), &mut on)
        .unwrap();
    assert_whole(&desk, &content);
}

#[test]
fn damaged_contents_are_not_kept() {
    let content = bytes(100_000);
    let mut wrong = content.clone();
    wrong[50_000] ^= 1;
    let longer = [content.as_slice(), b"!"].concat();
    for (sent, why) in [(wrong, "SHA-256"), (longer, "more bytes")] {
        let hub = hub(&content);
        hub.plan("/cdn/", 1, Reply::of(200, &[], &sent));
        let desk = Desk::new(&hub);
        let error = desk.model("a/b").unwrap_err();
        assert_eq!(error.id(), "hub/damaged");
        assert!(error.to_string().contains(why), "{error}");
        assert!(!part(&desk, &content).exists());
        assert!(!desk.path("blobs").join(sha256(&content)).exists());
        desk.model("a/b").unwrap();
        assert_whole(&desk, &content);
    }
}

#[test]
fn two_at_once_fetch_once() {
    let content = bytes(2_000_000);
    let hub = hub(&content);
    let desk = Desk::new(&hub);
    let (first, second) = thread::scope(|scope| {
        let both = [(); 2].map(|()| scope.spawn(|| desk.model("a/b").unwrap()));
        let [first, second] = both.map(|one| one.join().unwrap());
        (first, second)
    });
    assert_eq!(first, second);
    assert_whole(&desk, &content);
    assert_eq!(ranges(&hub).len(), 1);
}

#[test]
fn a_download_that_another_process_makes_is_waited_for() {
    let content = bytes(1_000);
    let hub = hub(&content);
    let desk = Desk::new(&hub);
    let lock = desk
        .dir
        .path()
        .join(format!("hub/.locks/models--a--b/{}.lock", sha256(&content)));
    put(&lock, b"");
    let mut held = Some(files::open(&lock).unwrap());
    held.as_ref().unwrap().lock().unwrap();
    let mut waited = 0;
    let snapshot = desk.watched(&mut |event| {
        if let HubEvent::Locked { file } = event {
            assert_eq!(file, FILE);
            waited += 1;
            held = None;
        }
        ControlFlow::Continue(())
    });
    assert_eq!(waited, 1);
    assert_eq!(snapshot.unwrap().commit, COMMIT);
}

#[test]
fn a_stopped_download_goes_on_later() {
    let content = bytes(1_000_000);
    let hub = hub(&content);
    let desk = Desk::new(&hub);
    let stopped = desk.watched(&mut |event| match event {
        HubEvent::Bytes { done, .. } if done > 1_000 => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    });
    assert!(matches!(stopped, Err(HubError::Stopped)), "{stopped:?}");
    assert!(part(&desk, &content).metadata().unwrap().len() > 1_000);
    desk.model("a/b").unwrap();
    assert_whole(&desk, &content);
    assert!(ranges(&hub)[1].is_some());
}

const CHILD_ENDPOINT: &str = "HUB_TEST_ENDPOINT";
const CHILD_HOME: &str = "HUB_TEST_HOME";

#[test]
fn a_disk_that_fills_leaves_nothing_under_the_final_name() {
    let content = bytes(200_000);
    let variable = |name: &str| env::var_os(name).map(|value| value.into_string().unwrap());
    if let Some(endpoint) = variable(CHILD_ENDPOINT) {
        let settings = settings(&endpoint, Path::new(&variable(CHILD_HOME).unwrap()));
        let error = Hub::new(settings)
            .unwrap()
            .model(&HubId::parse("a/b").unwrap(), &mut on)
            .unwrap_err();
        assert_eq!(error.id(), "hub/disk");
        assert!(error.to_string().contains("the disk is full"), "{error}");
        assert!(error.help().unwrap().contains(".incomplete"));
        return;
    }
    let hub = hub(&content);
    let desk = Desk::new(&hub);
    // A process that may write no longer files: the nearest to a full disk that needs no right to mount one.
    let module = module_path!().split_once("::").unwrap().1;
    let name = format!("{module}::a_disk_that_fills_leaves_nothing_under_the_final_name");
    let script = "trap '' XFSZ; ulimit -f 100; exec \"$@\"";
    let status = Command::new("sh")
        .args(["-c", script, "sh"])
        .arg(env::current_exe().unwrap())
        .args(["--exact", &name, "--nocapture"])
        .env(CHILD_ENDPOINT, &hub.endpoint)
        .env(CHILD_HOME, desk.dir.path())
        .status();
    assert!(status.unwrap().success());
    assert!(!desk.path("blobs").join(sha256(&content)).exists());
    let written = part(&desk, &content).metadata().unwrap().len();
    assert!(written > 0 && written < 200_000, "{written}");
    desk.model("a/b").unwrap();
    assert_whole(&desk, &content);
}
