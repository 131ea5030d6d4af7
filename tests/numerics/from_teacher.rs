//! A student made of parts of a teacher computes what the teacher does with all other parts at zero.

use std::sync::atomic::AtomicBool;

use alambic::calibration::{Calibration, Interrupted};
use alambic::model::{
    Architecture, Decoder, DecoderConfig, LayerType, Part, QkNorm, Site, Tap, TokenBatch,
};
use alambic::student::{FromTeacherPlan, LayersPlan};
use alambic::student::{Importance, PartSelection};
use alambic::tensors::to_vec;
use burn::tensor::Tensor;

use super::golden::{Tolerance, assert_close};
use super::tiny::{config, device, random_decoder, random_rows, tensor};

/// The same sum without the terms that are 0.
pub(crate) const SAME: Tolerance = Tolerance {
    atol: 1e-5,
    rtol: 1e-5,
};

/// Of a cut that rounds gains anew, over four layers of random weights; a wrong factor shows a thousand times more.
pub(crate) const ROUNDED: Tolerance = Tolerance {
    atol: 1e-4,
    rtol: 1e-5,
};

const HEAD_DIM: usize = 4;
const QUERIES_PER_GROUP: usize = 2;

/// Four layers, 16 dimensions, 32 channels, 4 key and value heads with 2 query heads each.
pub(crate) fn teacher(architecture: Architecture, tie_word_embeddings: bool) -> Decoder {
    let config = DecoderConfig {
        architecture,
        num_hidden_layers: 4,
        layer_types: vec![LayerType::Full; 4],
        num_attention_heads: 4 * QUERIES_PER_GROUP,
        num_key_value_heads: 4,
        head_dim: HEAD_DIM,
        rms_norm_eps: 1e-2, // large, so that a wrong one shows
        tie_word_embeddings,
        local_rope: (architecture == Architecture::Gemma3).then(|| config().rope),
        ..config()
    };
    random_decoder(config, 11)
}

pub(crate) fn logits(decoder: &Decoder) -> Vec<f32> {
    let hidden = decoder.hidden(&TokenBatch::document(&[5, 317, 44, 8, 160, 201], &device()));
    decoder.logits(hidden).try_into_vec_as::<f32>().unwrap()
}

/// The teacher with everything at zero that is not kept.
pub(crate) fn zeroed(teacher: &Decoder, kept: &PartSelection) -> Decoder {
    teacher.map(|spec, weight| {
        let [rows, columns] = spec.shape;
        let layer = spec.id.layer;
        let place = layer.and_then(|layer| kept.layers.iter().position(|&idx| idx == layer));
        let is_there = |row: usize, column: usize| {
            let writes = matches!(spec.id.part, Part::Output | Part::Down);
            if writes && place.is_none() {
                return false;
            }
            let has = |parts: &Option<Vec<Vec<usize>>>, idx: usize| {
                let of_layer = parts
                    .as_ref()
                    .zip(place)
                    .map(|(parts, place)| &parts[place]);
                of_layer.is_none_or(|parts| parts.contains(&idx))
            };
            let in_stream =
                |idx: usize| kept.hidden.as_ref().is_none_or(|kept| kept.contains(&idx));
            match spec.id.part {
                Part::Embedding => in_stream(column),
                Part::Query => has(&kept.groups, row / (HEAD_DIM * QUERIES_PER_GROUP)),
                Part::Key => has(&kept.groups, row / HEAD_DIM),
                Part::Output => {
                    in_stream(row) && has(&kept.groups, column / (HEAD_DIM * QUERIES_PER_GROUP))
                }
                Part::Down => in_stream(row) && has(&kept.channels, column),
                _ => true,
            }
        };
        let values = to_vec(&weight);
        let cell = |(place, value): (usize, f32)| {
            if is_there(place / columns, place % columns) {
                value
            } else {
                0.0
            }
        };
        assert_eq!(values.len(), rows * columns);
        tensor(
            values.into_iter().enumerate().map(cell).collect(),
            spec.shape,
        )
    })
}

fn parts() -> [PartSelection; 5] {
    let whole = PartSelection::layers(&[0, 1, 2, 3]);
    let narrow = PartSelection {
        layers: vec![0, 2],
        hidden: Some(vec![0, 1, 3, 4, 6, 7, 8, 11, 12, 13]),
        channels: Some(vec![vec![1, 2, 30, 31], vec![0, 5, 9, 17]]),
        groups: Some(vec![vec![0, 3], vec![1, 2]]),
    };
    [
        PartSelection::layers(&[0, 3]),
        PartSelection {
            hidden: narrow.hidden.clone(),
            ..whole.clone()
        },
        PartSelection {
            channels: narrow.channels.clone(),
            ..PartSelection::layers(&[0, 2])
        },
        PartSelection {
            groups: Some(vec![vec![1], vec![0], vec![3], vec![2]]),
            ..whole
        },
        narrow,
    ]
}

#[test]
fn a_part_of_a_teacher_is_the_teacher_with_the_rest_at_zero() {
    let mut num_compared = 0;
    for &architecture in Architecture::ALL {
        for tied in [false, true] {
            let teacher = teacher(architecture, tied);
            for kept in parts() {
                // Norms of queries and keys share the one `eps`, which is made tiny here.
                let mut teacher = teacher.clone();
                if architecture.family().qk_norm == QkNorm::PerHead && kept.hidden.is_some() {
                    teacher.config.rms_norm_eps = 1e-7;
                }
                let student = kept.cut(&teacher);
                let want: Vec<f64> = logits(&zeroed(&teacher, &kept))
                    .into_iter()
                    .map(f64::from)
                    .collect();
                let got = logits(&student);
                let name = format!("{architecture:?}, tied {tied}, {kept:?}");
                let tolerance = if kept.hidden.is_some() { ROUNDED } else { SAME };
                assert_close(&name, &got, &want, tolerance);
                let json = student.config.to_json("float32");
                assert_eq!(
                    DecoderConfig::from_json(&json).unwrap(),
                    student.config,
                    "{name}"
                );
                num_compared += 1;
            }
        }
    }
    assert_eq!(num_compared, 100);
}

#[test]
fn the_config_tells_the_sizes_of_what_is_kept() {
    let teacher = teacher(Architecture::Llama, true);
    let [_, _, _, _, narrow] = parts();
    let config = narrow.cut(&teacher).config;
    assert_eq!((config.num_hidden_layers, config.hidden_size), (2, 10));
    assert_eq!((config.intermediate_size, config.head_dim), (4, HEAD_DIM));
    assert_eq!(
        (config.num_attention_heads, config.num_key_value_heads),
        (4, 2)
    );
    assert!((config.rms_norm_eps - 1e-2 * 16.0 / 10.0).abs() < 1e-12);
}

#[expect(clippy::cast_possible_truncation, reason = "to compare in f32")]
fn narrow(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&value| value as f32).collect()
}

fn measured(decoder: &Decoder, num_tokens: usize) -> Result<Importance, Interrupted> {
    let rows = random_rows(8, &[8, 8, 3, 8, 8, 8], 4);
    let calibration = Calibration {
        rows: &rows,
        num_tokens,
        label: "student",
        is_silent: false,
        stop: &AtomicBool::new(false),
    };
    Importance::measure(decoder, &calibration)
}

/// Activations of the first five full rows, by layer and site: `[row][position][feature]`.
fn activations(decoder: &Decoder, wanted: (usize, Site)) -> Vec<Vec<Vec<f64>>> {
    let rows = random_rows(8, &[8, 8, 3, 8, 8, 8], 4);
    let full = [0, 1, 3, 4, 5].map(|row_idx| rows.inputs(row_idx));
    let mut found = Vec::new();
    let mut observer = |layer: usize, site: Site, x: &Tensor<3>| {
        if (layer, site) == wanted {
            let [_, seq, size] = x.dims();
            let values = x.clone().try_into_vec_as::<f32>().unwrap();
            let wide: Vec<f64> = values.into_iter().map(f64::from).collect();
            let rows = wide.chunks(seq * size);
            found = rows
                .map(|row| row.chunks(size).map(<[f64]>::to_vec).collect())
                .collect();
        }
    };
    decoder.hidden_tapped(
        &TokenBatch::new(&full, &device()),
        &mut Tap::new(&mut observer),
    );
    found
}

#[test]
fn influence_is_one_minus_the_mean_cosine_of_what_enters_and_leaves_a_layer() {
    let teacher = teacher(Architecture::Qwen3, true);
    let importance = measured(&teacher, 40).unwrap();
    let want: Vec<f64> = (0..4)
        .map(|layer| {
            let [before, after] = [layer, layer + 1]
                .map(|layer| activations(&teacher, (layer, Site::Residual)).concat());
            let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
            let cosines = before
                .iter()
                .zip(&after)
                .map(|(a, b)| dot(a, b) / (dot(a, a) * dot(b, b)).sqrt());
            assert_eq!(before.len(), 40, "five full rows of eight positions");
            1.0 - cosines.sum::<f64>() / 40.0
        })
        .collect();
    assert!(
        want.iter().all(|influence| (0.01..1.0).contains(influence)),
        "{want:?}"
    );
    assert_close("influence", &narrow(&importance.influence), &want, SAME);
}

#[test]
fn activity_is_that_of_the_paper() {
    let teacher = teacher(Architecture::Llama, true);
    let importance = measured(&teacher, 40).unwrap();
    // Mean size over a row's positions, squared, summed over rows, root.
    let activity = |layer: usize, site: Site| -> Vec<f64> {
        let rows = activations(&teacher, (layer, site));
        let size = rows[0][0].len();
        (0..size)
            .map(|feature| {
                let means = rows.iter().map(|row| {
                    row.iter()
                        .map(|position| position[feature].abs())
                        .sum::<f64>()
                        / 8.0
                });
                means.map(|mean| mean * mean).sum::<f64>().sqrt()
            })
            .collect()
    };
    for layer in 0..4 {
        assert_close(
            "channels",
            &narrow(&importance.channels[layer]),
            &activity(layer, Site::MlpHidden),
            SAME,
        );
        let heads = activity(layer, Site::AttentionOutput);
        let groups: Vec<f64> = heads
            .chunks(HEAD_DIM * QUERIES_PER_GROUP)
            .map(|group| group.iter().map(|one| one * one).sum::<f64>().sqrt())
            .collect();
        assert_eq!(groups.len(), 4);
        assert_close("groups", &narrow(&importance.groups[layer]), &groups, SAME);
    }
    let mut hidden = activity(4, Site::HeadInput);
    for (layer, site) in
        (0..4).flat_map(|layer| [(layer, Site::AttentionInput), (layer, Site::MlpInput)])
    {
        let one = activity(layer, site);
        hidden
            .iter_mut()
            .zip(one)
            .for_each(|(sum, one)| *sum += one);
    }
    assert_close("hidden", &narrow(&importance.hidden), &hidden, SAME);
}

#[test]
fn a_part_that_does_nothing_is_the_first_to_go() {
    let whole = teacher(Architecture::Llama, true);
    // Layer 1 adds nothing; of layer 0, channel 7 and head 2 are dead; dimension 9 passes no norm.
    let idle = whole.map(|spec, weight| {
        let [_, columns] = spec.shape;
        let is_dead = |place: usize| match spec.name.as_str() {
            "model.layers.1.self_attn.o_proj.weight" | "model.layers.1.mlp.down_proj.weight" => {
                true
            }
            "model.layers.0.mlp.up_proj.weight" => place / columns == 7,
            "model.layers.0.self_attn.v_proj.weight" => place / columns / HEAD_DIM == 2,
            name => name.ends_with("norm.weight") && place == 9,
        };
        let values = to_vec(&weight).into_iter().enumerate();
        tensor(
            values
                .map(|(place, value)| if is_dead(place) { 0.0 } else { value })
                .collect(),
            spec.shape,
        )
    });
    let importance = measured(&idle, 8).unwrap();
    assert!(
        importance.influence[1].abs() < 1e-6,
        "{:?}",
        importance.influence
    );
    let plan = FromTeacherPlan {
        layers: Some(LayersPlan::HighestInfluence(3)),
        hidden_size: Some(15),
        intermediate_size: Some(31),
        num_key_value_heads: Some(3),
        calibration_tokens: Some(8),
    };
    let kept = PartSelection::choose(&plan, &idle.config, &importance);
    let without =
        |count: usize, dead: usize| (0..count).filter(|&idx| idx != dead).collect::<Vec<_>>();
    assert_eq!(kept.layers, [0, 2, 3]);
    assert_eq!(kept.hidden, Some(without(16, 9)));
    assert_eq!(kept.channels.as_ref().unwrap()[0], without(32, 7));
    assert_eq!(kept.groups.as_ref().unwrap()[0], without(4, 2));
    assert_eq!(
        kept.channels.unwrap().len(),
        3,
        "one choice for each kept layer"
    );

    let importance = Importance::unmeasured(&idle.config);
    let every = FromTeacherPlan {
        layers: Some(LayersPlan::Every(3)),
        hidden_size: None,
        intermediate_size: None,
        num_key_value_heads: None,
        calibration_tokens: None,
    };
    assert_eq!(
        PartSelection::choose(&every, &idle.config, &importance),
        PartSelection::layers(&[0, 3])
    );
}

#[test]
fn a_signal_ends_the_measuring() {
    let rows = random_rows(8, &[8], 4);
    let calibration = Calibration {
        rows: &rows,
        num_tokens: 8,
        label: "student",
        is_silent: false,
        stop: &AtomicBool::new(true),
    };
    let told = Importance::measure(&teacher(Architecture::Llama, true), &calibration).unwrap_err();
    assert!(
        told.to_string().starts_with("stopped at stage student"),
        "{told}"
    );
}

#[test]
fn a_part_of_a_checkpoint_is_that_of_its_decoder_and_reads_no_other_layer() {
    use alambic::checkpoint::Checkpoint;
    use alambic::teacher::load_decoder;
    for name in ["hf-llama", "hf-gemma3", "gguf-q8_0-tied/model.gguf"] {
        let checkpoint = Checkpoint::open(&super::golden::path(name)).unwrap();
        let last = checkpoint.config().num_hidden_layers - 1;
        assert!(last > 0, "{name}");
        let kept = PartSelection::layers(&[last]);
        let read = kept.load(&checkpoint, &device()).unwrap();
        let cut = kept.cut(&load_decoder(&checkpoint, &device()).unwrap());
        assert_eq!(read.config, cut.config, "{name}");
        for ((spec, read), (_, cut)) in read.parameters().into_iter().zip(cut.parameters()) {
            assert_eq!(to_vec(&read), to_vec(&cut), "{name}: {}", spec.name);
        }
    }
}
