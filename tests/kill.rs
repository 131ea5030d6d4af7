//! A run that is killed again and again, with all in play that a training state has to hold, ends as one that was not.

#[cfg(test)]
mod common;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};
    use std::process::Child;
    use std::time::{Duration, Instant};

    use alambic::random::Stream;
    use alambic::train::read_metrics;

    use crate::common::{
        Workshop, assert_no_parts, assert_same_results, assert_whole, figures, finished, folders,
        results, signal, wait_for,
    };

    /// Times that the run is killed.
    const NUM_KILLS: usize = 20;

    /// All that a training state has to hold, and all that must not move when a run goes on: masks, micro-batches, an
    /// average, measurements, projections of hidden states to the teacher's width, and schedules of the rate, the temperature and the
    /// weights of the loss terms.
    const BUSY_RECIPE: &str = "\
name: busy
seed: 5
output: out
data: { train: [text/train.txt], validation: [text/validation.txt], sequence_length: 32 }
teacher: { checkpoint: teacher, batch_size: 4 }
cache: { support: { top_k: 16 }, temperatures: [1.0, 2.0], rows_per_shard: 64 }
student:
  architecture: { num_hidden_layers: 1, hidden_size: 32, num_attention_heads: 2, num_key_value_heads: 1, intermediate_size: 32 }
passes:
  - prune: { method: magnitude, sparsity: 0.5 }
  - distill:
      steps: 60
      tokens_per_step: 256
      micro_batch: 2
      learning_rate: 1e-2
      schedule: warmup_stable_decay
      decay_steps: 20
      ema: 0.9
      temperature: { from: 2.0, to: 1.0, over: 0.5 }
      losses: { forward_kl: { from: 0.2, to: 1.0, shape: cosine }, cross_entropy: { from: 1.0, to: 0.1, over: 40 }, hidden_mse: 0.5 }
      evaluate_every: 7
      early_stop: { patience: 4 }
      save_every: 3
  - quantize: { method: qat, bits: 4, group_size: 16, learn_scales: true, start_step: 7, steps: 15, tokens_per_step: 256, micro_batch: 3, ema: 0.5, save_every: 2, keep_states: 1 }
export: { formats: [huggingface, compressed-tensors], dtype: f32 }
";

    /// What changes on disk as a run goes on: stages done or begun, and the states and shards in them.
    fn traces(output: &Path) -> Vec<PathBuf> {
        let is_trace = |path: &PathBuf| {
            let name = path.file_name().unwrap().to_string_lossy();
            !name.starts_with(".partial-")
                && ["state-", "shard-", "artifact", "rows-"]
                    .iter()
                    .any(|prefix| name.starts_with(prefix))
        };
        let mut folders = vec![output.to_path_buf()];
        let mut found = Vec::new();
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    folders.push(path);
                } else if is_trace(&path) {
                    found.push(path);
                }
            }
        }
        found.sort();
        found
    }

    /// Starts the run and kills it some time after a number of traces; whether it was still running.
    fn killed(child: &mut Child, output: &Path, num_traces: usize, then: Duration) -> bool {
        let mut last = traces(output);
        let mut left = num_traces;
        while left > 0 && child.try_wait().unwrap().is_none() {
            let now = traces(output);
            if now != last {
                (last, left) = (now, left - 1);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(then);
        let is_running = child.try_wait().unwrap().is_none();
        if is_running {
            child.kill().unwrap();
        }
        is_running
    }

    #[test]
    fn a_run_killed_twenty_times_ends_in_the_bytes_of_one_that_never_was() {
        let workshop = Workshop::new();
        workshop.write("busy.yaml", BUSY_RECIPE.as_bytes());
        let args = ["run", "busy.yaml"];
        let whole_args = [&args[..], &["--set", "output=whole"]].concat();
        workshop.done(&whole_args);
        let since = Instant::now();
        workshop.done(&whole_args); // all is done: this is how long the program takes to begin
        let begin_secs = since.elapsed().as_secs_f64();

        let mut stream = Stream::new(17, "moments of the kills");
        let mut num_killed = 0;
        let mut num_resumed = 0;
        while num_killed < NUM_KILLS {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "0 to 7"
            )]
            let num_traces = (stream.uniform() * 8.0) as usize;
            let then = Duration::from_secs_f64(begin_secs * stream.uniform() / 2.0);
            let mut child = workshop.start(&args);
            if killed(&mut child, &workshop.path("out"), num_traces, then) {
                num_killed += 1;
            } else {
                fs::remove_dir_all(workshop.path("out")).unwrap(); // the kills that are left strike another run
            }
            let told = finished(child).stderr;
            num_resumed += usize::from(told.contains(": resumed at "));
            println!("killed {then:?} after {num_traces} traces, having told:\n{told}");
            assert_whole(&workshop.path("out/busy"));
        }
        assert!(num_resumed >= 3, "{num_resumed} of the killed runs went on");
        workshop.done(&args);

        assert_same_results(&workshop.path("out"), &workshop.path("whole"));
        assert_eq!(
            figures(&workshop.path("out/busy/report.json")),
            figures(&workshop.path("whole/busy/report.json"))
        );
        assert_no_parts(&workshop.path("out"));
    }

    #[test]
    fn parts_of_the_inputs_that_a_cache_keeps_are_removed() {
        let workshop = Workshop::new();
        workshop.write("busy.yaml", BUSY_RECIPE.as_bytes());
        let args = ["run", "busy.yaml"];
        workshop.done(&args);
        let cache = folders(&workshop.path("out"), "cache-").remove(0);
        // what a process leaves that is killed while it writes the first of these files
        fs::remove_file(cache.join("inputs.json")).unwrap();
        for part in [
            ".partial-inputs.json-1a2b3c",
            "inputs/teacher/.partial-tokenizer.json-1a2b3c",
        ] {
            fs::copy(workshop.path("busy.yaml"), cache.join(part)).unwrap();
        }
        workshop.done(&args);
        assert_no_parts(&workshop.path("out"));
        assert!(cache.join("inputs.json").exists());
    }

    /// Quantised without training, layer after layer.
    const LAYERS_RECIPE: &str = "\
name: layers
seed: 5
output: out
data: { train: [text/train.txt], validation: [text/validation.txt], sequence_length: 32, tokenizer: { file: teacher/tokenizer.json } }
student:
  architecture: { num_hidden_layers: 24, hidden_size: 64, num_attention_heads: 4, num_key_value_heads: 4, intermediate_size: 96 }
passes:
  - quantize: { method: awq-gptq, clip: true, bits: 3, group_size: 16, symmetric: false, calibration_tokens: 1k }
export: { formats: [compressed-tensors], dtype: f32 }
";

    #[test]
    fn a_calibration_that_is_killed_goes_on_at_its_layer() {
        let workshop = Workshop::new();
        workshop.write("layers.yaml", LAYERS_RECIPE.as_bytes());
        let args = ["run", "layers.yaml"];
        let num_layers = || {
            let partial = folders(&workshop.path("out/layers"), "unfinished-01-quantize");
            let layers = partial.first().map(|partial| partial.join("layers"));
            let entries = layers.and_then(|layers| fs::read_dir(layers).ok());
            let names = entries.into_iter().flatten().flatten();
            let names = names.map(|entry| entry.file_name().into_string().unwrap());
            names.filter(|name| !name.starts_with(".partial-")).count()
        };
        for at_least in [2, 12] {
            let mut child = workshop.start(&args);
            wait_for("layer", || num_layers() >= at_least);
            child.kill().unwrap();
            let told = finished(child).stderr;
            assert!(!told.contains("02-export"), "it was done before: {told}");
            assert_whole(&workshop.path("out/layers"));
        }
        let again = workshop.done(&args).stderr;
        let layer = again.split("01-quantize: resumed at layer ").nth(1);
        let layer = layer.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
        assert!(layer >= Some(11), "{again}");
        assert_no_parts(&workshop.path("out"));
        let done = workshop.folder("out/layers", "01-quantize");
        assert!(!done.join("layers").exists());

        workshop.done(&[&args[..], &["--set", "output=whole"]].concat());
        let [got, want] = ["out/layers", "whole/layers"].map(|run| results(&workshop.path(run)));
        assert!(want.len() >= 3, "{:?}", want.keys());
        assert!(got == want, "bytes differ: {:?}", want.keys());
    }

    #[test]
    fn a_signal_saves_the_step_at_which_it_came() {
        let workshop = Workshop::new();
        workshop.write("busy.yaml", BUSY_RECIPE.as_bytes());
        let args = [
            "run",
            "busy.yaml",
            "--set",
            "distill.save_every=1000000",
            "--set",
            "distill.log_every=1",
            "--set",
            "distill.steps=400",
        ];
        let child = workshop.start(&args);
        let partial = || folders(&workshop.path("out/busy"), "unfinished-02-distill").pop();
        let last_step = || {
            let lines = read_metrics(&partial()?).ok()?;
            Some(lines.last()?.step)
        };
        wait_for("step", || last_step() >= Some(5));
        signal(&child, "TERM");
        let ran = finished(child);
        assert_eq!(ran.code, Some(130), "{}", ran.stderr);
        let step = last_step().unwrap();
        let told = format!("stopped at step {step} of pass 02-distill; the state is in ");
        assert!(ran.stderr.contains(&told), "{}", ran.stderr);
        let state = partial()
            .unwrap()
            .join(format!("state-{step:010}.safetensors"));
        assert!(state.exists(), "{}", state.display());

        // A changed recipe does not go on from it, and says what changed.
        let changed = [
            &["plan"],
            &args[1..],
            &["--set", "distill.learning_rate=3e-3"],
        ]
        .concat();
        let told = "02-distill runs again, because `learning_rate` changed from 0.01 to 0.003";
        assert!(workshop.done(&changed).stdout.contains(told));

        let again = workshop.done(&args);
        assert!(
            again.stderr.contains("02-distill: resumed at "),
            "{}",
            again.stderr
        );
        workshop.done(&[&args[..], &["--set", "output=whole"]].concat());
        assert_same_results(&workshop.path("out"), &workshop.path("whole"));
        assert_no_parts(&workshop.path("out"));
    }
}
