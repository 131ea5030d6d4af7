//! Inputs that a reader refuses.

use std::fs;
use std::sync::Arc;

use tempfile::tempdir;

use super::*;

fn change_manifest(dir: &Path, from: &str, to: &str) {
    change(&dir.join(manifest::MANIFEST), |bytes| {
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
    let cache = open_for(dir.path(), &fingerprint(), NUM_ROWS).unwrap();
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
    let error = open_for(dir.path(), &fingerprint(), NUM_ROWS).unwrap_err();
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
    let message = "`teacher_weights` is `111111111111…` in the cache, but `444444444444…` is wanted; \
                   `temperatures` is `[1.0,2.0]` in the cache, but `[1.0]` is wanted";
    let error = open_for(dir.path(), &wanted, NUM_ROWS).unwrap_err();
    assert!(error.to_string().ends_with(message), "{error}");
    let before = contents(dir.path());
    let error = try_writer(dir.path(), &wanted, NUM_ROWS).unwrap_err();
    assert!(error.to_string().ends_with(message), "{error}");
    assert!(
        contents(dir.path()) == before,
        "a stranger's cache is left alone"
    );
}

#[test]
fn a_shard_of_another_cache_is_refused() {
    let (dir, other) = (tempdir().unwrap(), tempdir().unwrap());
    build(dir.path(), &fingerprint());
    build_rows(other.path(), &fingerprint(), 9);
    let name = "shard-00002.parquet";
    let foreign = fs::read(other.path().join(name)).unwrap();
    change(&dir.path().join(name), |bytes| *bytes = foreign);
    let error = verify(dir.path(), |_| {}).unwrap_err();
    assert!(error.to_string().contains(name), "{error}");
    build(other.path(), &fingerprint());
    // Two shards are swapped.
    let shards = [0, 1].map(|shard_idx| other.path().join(manifest::shard_file(shard_idx)));
    let [first, second] = shards.each_ref().map(|path| fs::read(path).unwrap());
    change(&shards[0], |bytes| *bytes = second);
    change(&shards[1], |bytes| *bytes = first);
    assert!(verify(other.path(), |_| {}).is_err());
}

/// Replaces the first shard by another file, with a manifest that lists its length and checksum.
fn replace_first_shard(dir: &Path, bytes: Vec<u8>) {
    let shard = dir.join(manifest::shard_file(0));
    let there = fs::read(&shard).unwrap();
    let length = |bytes: &[u8]| format!("\"bytes\": {},", bytes.len());
    let hash = |bytes: &[u8]| blake3::hash(bytes).to_hex().to_string();
    change_manifest(dir, &length(&there), &length(&bytes));
    change_manifest(dir, &hash(&there), &hash(&bytes));
    change(&shard, |all| *all = bytes);
}

#[test]
fn rows_that_are_doubled_missing_or_out_of_order_are_refused() {
    let of = fingerprint();
    let all = first_rows(&of, 4);
    let row = |row_idx| columns::store(all.row(row_idx), &supports(row_idx, &of), &of);
    let rows: Vec<_> = (0..4).map(|row_idx| row(row_idx).unwrap()).collect();
    let cases: [(&str, usize, &[usize]); 4] = [
        ("doubled", 0, &[0, 1, 1, 2]),
        ("missing", 0, &[0, 1, 3]),
        ("out of order", 0, &[0, 2, 1, 3]),
        ("numbered otherwise", 1, &[0, 1, 2, 3]),
    ];
    for (what, first_row, picks) in cases {
        let dir = tempdir().unwrap();
        build_rows(dir.path(), &of, 4);
        let picked: Vec<_> = picks.iter().map(|&row| rows[row].clone()).collect();
        replace_first_shard(
            dir.path(),
            write::shard_bytes(&of, first_row, &picked).unwrap(),
        );
        assert!(verify(dir.path(), |_| {}).is_err(), "{what}");
        let opened = Cache::open_any(dir.path()).unwrap();
        assert!(
            (0..4).any(|row_idx| read(&opened, &[row_idx]).is_err()),
            "{what}"
        );
    }
}

#[test]
fn a_foreign_parquet_file_is_refused() {
    let field = arrow_schema::Field::new("a", arrow_schema::DataType::UInt32, false);
    let schema = Arc::new(arrow_schema::Schema::new(vec![field]));
    let column = Arc::new(arrow_array::UInt32Array::from(vec![1, 2, 3, 4]));
    let batch = arrow_array::RecordBatch::try_new(schema.clone(), vec![column]).unwrap();
    let mut writer = parquet::arrow::ArrowWriter::try_new(Vec::new(), schema, None).unwrap();
    writer.write(&batch).unwrap();
    let foreign = [
        writer.into_inner().unwrap(),
        b"PAR1 and no more".to_vec(),
        Vec::new(),
    ];
    for foreign in foreign {
        let dir = tempdir().unwrap();
        build(dir.path(), &fingerprint());
        replace_first_shard(dir.path(), foreign);
        let error = read(&Cache::open_any(dir.path()).unwrap(), &[1]).unwrap_err();
        assert!(matches!(&error, CacheError::Corrupt { .. }), "{error}");
        assert!(verify(dir.path(), |_| {}).is_err());
    }
}

#[test]
fn rows_of_other_tokens_and_rows_beyond_the_end_are_refused() {
    let dir = tempdir().unwrap();
    let cache = build(dir.path(), &fingerprint());
    let rows = first_rows(&fingerprint(), NUM_ROWS);
    let error = cache.rows(&[3, 6], |_| rows.row(3)).unwrap_err();
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
#[expect(clippy::too_many_lines, reason = "one table of cases")]
fn an_impossible_manifest_is_refused() {
    let huge = |field: &str| format!("\"{field}\": {}", usize::MAX);
    let cases = [
        ("\"num_rows\": 10", huge("num_rows"), "lists 3 shards"),
        (
            "\"num_rows\": 10",
            "\"num_rows\": 0".to_owned(),
            "lists 3 shards",
        ),
        (
            "\"num_rows\": 10",
            "\"num_rows\": 10, \"part\": {\"part\": 3, \"of\": 2}".to_owned(),
            "is part 3 of 2",
        ),
        (
            "\"rows\": 2",
            "\"rows\": 3".to_owned(),
            "`shard-00002.parquet` with 3 rows, it must be",
        ),
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
            "\"version\": 5",
            "\"version\": 3".to_owned(),
            "format 3, this program reads 5",
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
            Cache::open_any(dir.path()).unwrap_err(),
            verify(dir.path(), |_| {}).unwrap_err(),
            try_writer(dir.path(), &fingerprint(), NUM_ROWS).unwrap_err(),
        ] {
            assert!(error.to_string().contains(want), "{from} -> {to}: {error}");
        }
    }
}

#[test]
fn a_shard_that_contradicts_the_manifest_is_refused_though_its_checksum_is_right() {
    let cases = [
        ("\"teacher_weights\": \"11", "\"teacher_weights\": \"12"),
        ("\"top_k\": 5", "\"top_k\": 4"),
        ("\"sequence_length\": 16", "\"sequence_length\": 15"),
        ("\"vocab_size\": 64", "\"vocab_size\": 63"),
        ("2.0\n", "2.0,\n3.0\n"),
    ];
    let want = "has another fingerprint than the manifest";
    for (from, to) in cases {
        let dir = tempdir().unwrap();
        build(dir.path(), &fingerprint());
        change_manifest(dir.path(), from, to);
        let cache = Cache::open_any(dir.path()).unwrap();
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
        ..fingerprint()
    };
    build_rows(dir.path(), &of, 2);
    let shard = dir.path().join("shard-00000.parquet");
    let sound = fs::read(&shard).unwrap();
    let manifest = fs::read_to_string(dir.path().join(manifest::MANIFEST)).unwrap();
    let sound_hash = blake3::hash(&sound).to_hex();
    let mut num_faults = 0;
    for place in 0..sound.len() {
        let mut flipped = sound.clone();
        flipped[place] ^= if place % 2 == 0 { 0x01 } else { 0x80 };
        let manifest = manifest.replace(&*sound_hash, &blake3::hash(&flipped).to_hex());
        change(&shard, |bytes| *bytes = flipped);
        change(&dir.path().join(manifest::MANIFEST), |bytes| {
            *bytes = manifest.into_bytes();
        });
        let cache = Cache::open_any(dir.path()).unwrap();
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
