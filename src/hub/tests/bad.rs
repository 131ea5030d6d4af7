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

#[test]
fn each_refusal_of_a_hub_is_told_apart() {
    let code = |status: u16, code: &str| Reply::of(status, &[("X-Error-Code", code)], b"");
    let message = |status: u16, text: &str| Reply::of(status, &[("X-Error-Message", text)], b"{}");
    for (reply, id, part) in [
        (
            code(403, "GatedRepo"),
            "hub/gated",
            "ask for access at http://127.0.0.1",
        ),
        (
            code(401, "RepoNotFound"),
            "hub/not-found",
            "no model `a/b` that this token may read",
        ),
        (
            code(404, "RepoNotFound"),
            "hub/not-found",
            "check that the token may read it",
        ),
        (Reply::of(401, &[], b""), "hub/not-found", "spelling"),
        (
            message(401, "Invalid credentials in Authorization header"),
            "hub/bad-token",
            "take a new one",
        ),
        (code(404, "RevisionNotFound"), "hub/no-revision", "`main`"),
        (
            message(403, "Access to this resource is disabled."),
            "hub/forbidden",
            "closed access",
        ),
        (
            message(403, "Your token\u{1b} lacks a right"),
            "hub/forbidden",
            "`a/b`: Your token",
        ),
        (
            Reply::of(403, &[("Content-Type", "text/html")], b"<html>"),
            "hub/not-a-hub",
            "web page (status 403)",
        ),
        (
            Reply::of(404, &[], b"nginx"),
            "hub/not-a-hub",
            "HF_ENDPOINT",
        ),
        (Reply::html(), "hub/not-a-hub", "a web page instead of JSON"),
        (
            Reply::of(200, &[("Content-Type", "application/json")], b"{}"),
            "hub/not-a-hub",
            "not the JSON of a repository",
        ),
        (Reply::of(418, &[], b""), "hub/status", "418"),
        (
            Reply::of(302, &[("Location", "ftp://x/")], b""),
            "hub/not-a-hub",
            "address that is none",
        ),
    ] {
        let (got, text) = refused(reply, 1);
        assert_eq!(got, id, "{text}");
        assert!(text.contains(part), "{text}");
    }
    let (id, text) = refused(code(503, ""), 9);
    assert!(
        id == "hub/status" && text.contains("503") && text.contains("later"),
        "{text}"
    );
    let (id, text) = refused(Reply::of(429, &[("Retry-After", "3600")], b""), 1);
    assert!(
        id == "hub/too-many-requests" && text.contains("takes none for 3600 s"),
        "{text}"
    );
    let (id, text) = refused(
        Reply::of(429, &[("RateLimit", "\"api\";r=0;t=900")], b""),
        1,
    );
    assert!(
        id == "hub/too-many-requests" && text.contains("900 s"),
        "{text}"
    );
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
    let stopped = Hub::new(desk.settings.clone()).unwrap().model(
        &HubId::parse("a/b").unwrap(),
        &mut |event| {
            assert!(
                matches!(event, HubEvent::Waits { why, .. } if why.contains("503")),
                "{event:?}"
            );
            waits += 1;
            ControlFlow::Break(())
        },
    );
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
