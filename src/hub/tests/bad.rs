//! Refusals, wrong answers and hubs that cannot be reached: each is told apart, and says how to mend it.

use std::os::unix::fs::PermissionsExt;

use super::*;

/// Id, message and advice of the error when the API answers so.
fn refused(reply: Reply, times: usize) -> (&'static str, String) {
    let hub = model_hub();
    hub.plan("/api/", times, reply);
    told(&Desk::new(&hub))
}

fn told(desk: &Desk) -> (&'static str, String) {
    let error = desk.model("a/b").unwrap_err();
    let text = format!("{error}; {}", error.help().unwrap_or_default());
    assert!(!text.contains(TOKEN) && !text.contains("signed"), "{text}");
    assert!(
        !desk
            .path("snapshots")
            .join(COMMIT)
            .join("config.json")
            .exists()
    );
    assert!(!desk.path("refs").exists());
    (error.id(), text)
}

fn assert_told(reply: Reply, times: usize, id: &str, part: &str) {
    let (got, text) = refused(reply, times);
    assert_eq!(got, id, "{text}");
    assert!(text.contains(part), "{text}");
}

#[test]
fn each_refusal_of_a_hub_is_told_apart() {
    let code = |status: u16, code: &str| Reply::of(status, &[("X-Error-Code", code)], b"");
    let gated = code(403, "GatedRepo");
    assert_told(gated, 1, "hub/gated", "ask for access at http://127.0.0.1");
    let missing = code(401, "RepoNotFound");
    assert_told(
        missing,
        1,
        "hub/not-found",
        "no model `a/b` that this token may read",
    );
    let missing = code(404, "RepoNotFound");
    assert_told(
        missing,
        1,
        "hub/not-found",
        "check that the token may read it",
    );
    assert_told(code(401, ""), 1, "hub/not-found", "spelling");
    assert_told(
        code(404, "RevisionNotFound"),
        1,
        "hub/no-revision",
        "`main`",
    );
    assert_told(code(418, ""), 1, "hub/status", "418");
    assert_told(
        code(503, ""),
        9,
        "hub/status",
        "503; the hub has a fault of its own",
    );
    let message = |status: u16, text: &str| Reply::of(status, &[("X-Error-Message", text)], b"{}");
    let token = message(401, "Invalid credentials in Authorization header");
    assert_told(token, 1, "hub/bad-token", "take a new one");
    let closed = message(403, "Access to this resource is disabled.");
    assert_told(closed, 1, "hub/forbidden", "closed access");
    let right = message(403, "Your token lacks a right");
    assert_told(right, 1, "hub/forbidden", "`a/b`: Your token lacks a right");
    let wait = |header: (&'static str, &str)| Reply::of(429, &[header], b"");
    let after = wait(("Retry-After", "3600"));
    assert_told(after, 1, "hub/too-many-requests", "takes none for 3600 s");
    let limit = wait(("RateLimit", "\"api\";r=0;t=900"));
    assert_told(limit, 1, "hub/too-many-requests", "900 s");
}

#[test]
fn what_is_no_hub_is_told_apart() {
    let id = "hub/not-a-hub";
    let page = Reply::of(403, &[("Content-Type", "text/html")], b"<html>");
    assert_told(page, 1, id, "web page (status 403)");
    assert_told(Reply::of(404, &[], b"nginx"), 1, id, "HF_ENDPOINT");
    assert_told(Reply::html(), 1, id, "a web page instead of JSON");
    let json = Reply::of(200, &[("Content-Type", "application/json")], b"{}");
    assert_told(json, 1, id, "not the JSON of a repository");
    let nowhere = Reply::of(302, &[("Location", "ftp://x/")], b"");
    assert_told(nowhere, 1, id, "address that is none");
    let around = Reply::of(302, &[("Location", "/api/models/a/b/revision/main")], b"");
    assert_told(around, 99, id, "more than 10 times");
}

#[test]
fn without_a_token_a_gated_model_says_how_to_log_in() {
    let hub = model_hub();
    hub.plan(
        "HEAD /a/b/resolve",
        1,
        Reply::of(403, &[("X-Error-Code", "GatedRepo")], b""),
    );
    let mut desk = Desk::new(&hub);
    desk.settings.token = None;
    let (id, text) = told(&desk);
    assert!(
        id == "hub/gated" && text.contains("no token is set") && text.contains("`hf auth login`"),
        "{text}"
    );
}

#[test]
fn what_passes_is_tried_again() {
    let hub = model_hub();
    for reply in [
        Reply::of(503, &[], b""),
        Reply::of(429, &[("Retry-After", "0")], b""),
    ] {
        hub.plan("/api/", 1, reply.clone());
        hub.plan("HEAD /a/b/resolve", 1, reply.clone());
        hub.plan("/cdn/", 1, reply);
    }
    let desk = Desk::new(&hub);
    desk.model("a/b").unwrap();
    assert_eq!(hub.seen("/api/").len(), 3);
}

#[test]
fn a_download_waits_no_longer_when_it_is_stopped() {
    let hub = model_hub();
    hub.plan("/api/", 1, Reply::of(503, &[("Retry-After", "2")], b""));
    let desk = Desk::new(&hub);
    let mut waits = 0;
    let stopped = desk.watched(&mut |event| {
        assert!(
            matches!(event, HubEvent::Waits { why, .. } if why.contains("503")),
            "{event:?}"
        );
        waits += 1;
        ControlFlow::Break(())
    });
    assert!(matches!(stopped, Err(HubError::Stopped)), "{stopped:?}");
    assert_eq!(waits, 1);
}

#[test]
fn lists_that_lead_out_of_the_folder_or_name_no_commit_are_refused() {
    for (body, why) in [
        (r#"{"sha": "main", "siblings": []}"#, "no commit"),
        (
            &format!(r#"{{"sha": "{COMMIT}", "siblings": [{{"rfilename": "../../../x"}}]}}"#),
            "no path inside",
        ),
        (
            &format!(r#"{{"sha": "{COMMIT}", "siblings": [{{"rfilename": "/etc/x"}}]}}"#),
            "no path inside",
        ),
    ] {
        let (id, text) = refused(Reply::of(200, &[], body.as_bytes()), 1);
        assert!(id == "hub/listing" && text.contains(why), "{text}");
    }
}

#[test]
fn a_file_that_is_not_of_the_commit_or_has_no_tag_is_refused() {
    let commit = ("X-Repo-Commit", COMMIT);
    for (headers, why) in [
        (vec![("ETag", "\"x\"")], "X-Repo-Commit"),
        (
            vec![("ETag", "\"x\""), ("Content-Type", "text/html")],
            "web page instead of a file",
        ),
        (
            vec![("ETag", "\"x\""), ("X-Repo-Commit", OTHER)],
            "of commit bbbbbbbbbb instead of aaaaaaaaaa",
        ),
        (vec![commit], "ETag"),
        (vec![commit, ("ETag", "\"../../x\"")], "ETag"),
        (vec![commit, ("ETag", "\".hidden\"")], "ETag"),
    ] {
        let hub = model_hub();
        hub.plan("HEAD /a/b/resolve", 1, Reply::of(200, &headers, b"{}"));
        let (id, text) = told(&Desk::new(&hub));
        assert!(id == "hub/not-a-hub" && text.contains(why), "{text}");
    }
    let hub = model_hub();
    hub.plan(
        "GET /a/b/resolve",
        1,
        Reply::of(200, &[("Content-Encoding", "gzip")], b"{}"),
    );
    let (_, text) = told(&Desk::new(&hub));
    assert!(text.contains("packs a file"), "{text}");
}

#[test]
fn a_hub_that_cannot_be_reached_is_done_without_if_the_cache_has_all() {
    let hub = model_hub();
    let mut desk = Desk::new(&hub);
    let whole = desk.model("a/b").unwrap();
    let closed = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    desk.settings.endpoint = format!("http://{closed}");
    let found = desk.model("a/b").unwrap();
    assert_eq!((&found.path, &found.commit), (&whole.path, &whole.commit));
    assert!(
        found.notes[0].contains("taken from the cache, at commit aaaaaaaaaa: http://127.0.0.1"),
        "{:?}",
        found.notes
    );
    fs::remove_file(whole.path.join(SHARD)).unwrap();
    for id in ["a/b", "a/c"] {
        let error = desk.model(id).unwrap_err();
        assert_eq!(error.id(), "hub/unreachable", "{error}");
        assert!(error.help().unwrap().contains("HTTPS_PROXY"));
    }
}

#[test]
fn endpoints_that_are_no_address_are_refused_and_not_repeated() {
    let hub = model_hub();
    let mut desk = Desk::new(&hub);
    for endpoint in [
        "huggingface.co",
        "ftp://x",
        "https://user:word@x",
        "https://x/?y=z",
        "",
    ] {
        endpoint.clone_into(&mut desk.settings.endpoint);
        let told = Hub::new(desk.settings.clone()).unwrap_err().to_string();
        assert!(
            told.contains("`HF_ENDPOINT`") && !told.contains("word"),
            "{told}"
        );
    }
}

#[test]
fn a_download_that_the_disk_has_no_room_for_does_not_begin() {
    let hub = model_hub();
    let body = format!(
        r#"{{"sha": "{COMMIT}", "siblings": [{{"rfilename": "config.json", "size": {}}}]}}"#,
        u64::MAX / 2
    );
    hub.plan("/api/", 1, Reply::of(200, &[], body.as_bytes()));
    let desk = Desk::new(&hub);
    let (id, text) = told(&desk);
    assert!(
        id == "hub/disk" && text.contains("TiB, but the disk") && text.contains("HF_HOME"),
        "{text}"
    );
    assert_eq!(hub.seen("/resolve/").len(), 0);
}

#[test]
fn a_cache_that_cannot_be_written_names_its_owner_and_still_serves_what_it_has() {
    let hub = model_hub();
    let desk = Desk::new(&hub);
    let whole = desk.model("a/b").unwrap();
    let refused = HubError::of_cache(
        &desk.path("blobs/x"),
        std::io::ErrorKind::PermissionDenied.into(),
    );
    let text = refused.to_string();
    assert!(
        text.contains("belongs to user") && refused.help().unwrap().contains("HF_HOME"),
        "{text}"
    );
    let lock = |mode| {
        for folder in [
            "",
            "refs",
            "blobs",
            "snapshots",
            &format!("snapshots/{COMMIT}"),
        ] {
            fs::set_permissions(desk.path(folder), fs::Permissions::from_mode(mode)).unwrap();
        }
    };
    lock(0o555);
    if fs::create_dir(desk.path("probe")).is_ok() {
        return; // nothing is forbidden to root
    }
    assert_eq!(desk.model("a/b").unwrap(), whole);
    hub.move_to(OTHER);
    let error = desk.model("a/b").unwrap_err();
    lock(0o755);
    assert_eq!(error.id(), "hub/not-writable", "{error}");
}
