//! Checksums that vouch for files, made anew after damage, so that what is behind them is reached.

use alambic::files::hash_json;
use serde_json::Value;

use super::damage::{is_ours, with_checksum};
use super::seeds::Files;

/// Makes the checksums of a case anew: in alambic's own files of matrices, in the manifests of caches, in artifacts.
pub(crate) fn renew(files: &mut Files) {
    let names: Vec<String> = files.keys().cloned().collect();
    for name in names.iter().filter(|name| name.ends_with(".safetensors")) {
        if is_ours(&files[name])
            && let Some(bytes) = with_checksum(&files[name])
        {
            files.insert(name.clone(), bytes);
        }
    }
    for name in names.iter().filter(|name| name.ends_with("manifest.json")) {
        renew_records(files, name, "shards", "file");
    }
    for name in names.iter().filter(|name| name.ends_with("artifact.json")) {
        renew_records(files, name, "files", "path");
        let Ok(Value::Object(mut artifact)) = serde_json::from_slice(&files[name]) else {
            continue;
        };
        artifact.shift_remove("blake3");
        let mut artifact = Value::Object(artifact);
        artifact["blake3"] = hash_json(&artifact).into();
        files.insert(name.clone(), artifact.to_string().into_bytes());
    }
}

/// Makes the lengths and hashes anew that a file lists of the files beside it and below.
fn renew_records(files: &mut Files, name: &str, list: &str, path: &str) {
    let Ok(mut json) = serde_json::from_slice::<Value>(&files[name]) else {
        return;
    };
    let folder = name.rsplit_once('/').map_or("", |(folder, _)| folder);
    for record in json
        .get_mut(list)
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        let listed = record.get(path).and_then(Value::as_str).unwrap_or_default();
        if let Some(bytes) = files.get(&format!("{folder}/{listed}")) {
            record["bytes"] = bytes.len().into();
            record["blake3"] = blake3::hash(bytes).to_hex().as_str().into();
        }
    }
    files.insert(name.to_owned(), json.to_string().into_bytes());
}
