//! What a reader refuses.

use std::fs;

use tempfile::tempdir;

use super::*;

fn change_manifest(dir: &Path, from: &str, to: &str) {
    change(&dir.join(format::MANIFEST), |bytes| {
        let text = String::from_utf8(std::mem::take(bytes)).unwrap();
        assert!(text.contains(from), "{text}");
        *bytes = text.replace(from, to).into_bytes();
    });
}

#[test]
fn a_flipped_byte_is_refused_with_the_name_of_the_shard() {
    let dir = tempdir().unwrap();
    build(dir.path(), &fingerprint());
    let path = dir.path().join("shard-00001.parquet");
    change(&path, |bytes| bytes[200] ^= 0x10);
    let cache = Cache::open(dir.path(), Some(&fingerprint())).unwrap();
    assert!(read(&cache, &[0, 9]).is_ok(), "other shards can be read");
    let error = read(&cache, &[4]).unwrap_err();
    assert!(
        matches!(&error, CacheError::ShardChecksum { path: at, .. } if *at == path),
        "{error}"
    );
    assert!(error.to_string().contains("shard-00001.parquet"), "{error}");
    assert!(error.help().unwrap().contains("shard-00001.parquet"));
}

#[test]
fn a_truncated_shard_is_refused_before_any_row_is_read() {
    let dir = tempdir().unwrap();
    build(dir.path(), &fingerprint());
    change(&dir.path().join("shard-00002.parquet"), |bytes| {
        bytes.truncate(50);
    });
    let error = Cache::open(dir.path(), Some(&fingerprint())).unwrap_err();
    assert!(
        matches!(
            error,
            CacheError::ShardLength {
                found_bytes: 50,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn verify_names_every_damaged_shard() {
    let dir = tempdir().unwrap();
    build(dir.path(), &fingerprint());
    let mut seen = Vec::new();
    let report = verify(dir.path(), |num_rows| seen.push(num_rows)).unwrap();
    assert_eq!((report.num_shards, report.num_rows), (3, 10));
    assert_eq!(seen, (1..=10).collect::<Vec<_>>());

    fs::remove_file(dir.path().join("shard-00000.parquet")).unwrap();
    change(&dir.path().join("shard-00002.parquet"), |bytes| {
        bytes[9] ^= 1;
    });
    let error = verify(dir.path(), |_| {}).unwrap_err();
    let help = error.help().unwrap();
    let CacheError::Damaged { faults, .. } = error else {
        panic!("{error}");
    };
    let [
        CacheError::ShardMissing { .. },
        CacheError::ShardChecksum { path, .. },
    ] = &faults[..]
    else {
        panic!("{faults:?}");
    };
    assert!(help.contains(path.to_str().unwrap()), "{help}");
}

#[test]
fn a_stale_cache_names_each_field_with_both_values() {
    let dir = tempdir().unwrap();
    build(dir.path(), &fingerprint());
    let wanted = Fingerprint {
        teacher_weights: "44".repeat(32),
        temperatures: vec![1.0],
        ..fingerprint()
    };
    let message = "`teacher_weights` is `111111111111…`, wanted is `444444444444…`; \
                   `temperatures` is `[1.0,2.0]`, wanted is `[1.0]`";
    let error = Cache::open(dir.path(), Some(&wanted)).unwrap_err();
    assert!(error.to_string().ends_with(message), "{error}");
    let before = contents(dir.path());
    let error = CacheWriter::open(dir.path(), &wanted, ROWS_PER_SHARD).unwrap_err();
    assert!(error.to_string().ends_with(message), "{error}");
    assert!(
        contents(dir.path()) == before,
        "a stranger's cache is left alone"
    );
}

#[test]
fn rows_of_other_tokens_and_rows_beyond_the_end_are_refused() {
    let dir = tempdir().unwrap();
    let cache = build(dir.path(), &fingerprint());
    let others = tokens(3, &fingerprint());
    let error = cache.rows(&[3, 6], |_| &others).unwrap_err();
    assert!(
        matches!(error, CacheError::RowTokens { row_idx: 6, .. }),
        "{error}"
    );
    for row_idx in [10, usize::MAX] {
        let error = read(&cache, &[row_idx]).unwrap_err();
        assert!(
            matches!(error, CacheError::NoSuchRow { num_rows: 10, .. }),
            "{error}"
        );
    }
}

#[test]
fn an_impossible_manifest_is_refused() {
    let huge = |field: &str| format!("\"{field}\": {}", usize::MAX);
    let cases = [
        ("\"num_rows\": 10", huge("num_rows"), "lists 3 shards"),
        (
            "\"rows_per_shard\": 4",
            huge("rows_per_shard"),
            "lists 3 shards",
        ),
        (
            "\"rows_per_shard\": 4",
            "\"rows_per_shard\": 0".to_owned(),
            "lists 3 shards",
        ),
        (
            "\"sequence_length\": 16",
            huge("sequence_length"),
            "a cache cannot have",
        ),
        ("\"top_k\": 5", huge("top_k"), "a cache cannot have top"),
        (
            "\"vocab_size\": 64",
            huge("vocab_size"),
            "a cache cannot have a vocabulary",
        ),
        (
            "shard-00001",
            "../shard-00001".to_owned(),
            "must be `shard-00001.parquet`",
        ),
        (
            "\"version\": 1",
            "\"version\": 2".to_owned(),
            "format 2, this program reads 1",
        ),
        (
            "\"shards\"",
            "\"splinters\"".to_owned(),
            "unknown field `splinters`",
        ),
        ("}", String::new(), "key must be a string"),
    ];
    for (from, to, want) in cases {
        let dir = tempdir().unwrap();
        build(dir.path(), &fingerprint());
        change_manifest(dir.path(), from, &to);
        for error in [
            Cache::open(dir.path(), None).unwrap_err(),
            verify(dir.path(), |_| {}).unwrap_err(),
            CacheWriter::open(dir.path(), &fingerprint(), ROWS_PER_SHARD).unwrap_err(),
        ] {
            assert!(error.to_string().contains(want), "{from} -> {to}: {error}");
        }
    }
}

#[test]
fn a_shard_that_contradicts_the_manifest_is_refused_though_its_checksum_is_right() {
    let cases = [
        ("\"top_k\": 5", "\"top_k\": 4", "80 ids instead of 64"),
        (
            "\"sequence_length\": 16",
            "\"sequence_length\": 15",
            "80 ids instead of 75",
        ),
        (
            "\"vocab_size\": 64",
            "\"vocab_size\": 8",
            "in a vocabulary of 8",
        ),
        ("2.0\n", "2.0,\n3.0\n", "2 temperatures instead of 3"),
    ];
    for (from, to, want) in cases {
        let dir = tempdir().unwrap();
        build(dir.path(), &fingerprint());
        change_manifest(dir.path(), from, to);
        let cache = Cache::open(dir.path(), None).unwrap();
        let error = read_for(&cache, &[1], &fingerprint()).unwrap_err();
        assert!(error.to_string().contains(want), "{error}");
        assert!(verify(dir.path(), |_| {}).is_err());
    }
}

/// Some of these bytes make the Parquet decoder panic, which must not reach the caller.
#[test]
fn no_flipped_byte_under_a_right_checksum_stops_the_reader() {
    let dir = tempdir().unwrap();
    let of = Fingerprint {
        sequence_length: 4,
        num_rows: 2,
        ..fingerprint()
    };
    build(dir.path(), &of);
    let shard = dir.path().join("shard-00000.parquet");
    let sound = fs::read(&shard).unwrap();
    let manifest = fs::read_to_string(dir.path().join(format::MANIFEST)).unwrap();
    let sound_hash = blake3::hash(&sound).to_hex();
    let mut num_faults = 0;
    for place in 0..sound.len() {
        let mut flipped = sound.clone();
        flipped[place] ^= if place % 2 == 0 { 0x01 } else { 0x80 };
        let manifest = manifest.replace(&*sound_hash, &blake3::hash(&flipped).to_hex());
        change(&shard, |bytes| *bytes = flipped);
        change(&dir.path().join(format::MANIFEST), |bytes| {
            *bytes = manifest.into_bytes();
        });
        let cache = Cache::open(dir.path(), None).unwrap();
        let faults = [
            verify(dir.path(), |_| {}).err(),
            read(&cache, &[0, 1]).err(),
        ];
        num_faults += usize::from(faults.iter().any(Option::is_some));
    }
    assert!(
        num_faults > sound.len() / 4,
        "{num_faults} of {}",
        sound.len()
    );
}
