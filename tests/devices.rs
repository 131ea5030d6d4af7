//! Training on every linked device: each run in a process of its own, so that a driver's crash is a skip and not a lost run.

#[cfg(test)]
mod common;

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::{Child, Stdio};
    use std::time::{Duration, Instant};

    use alambic::device;
    use alambic::train::{MetricsLine, read_metrics, state};
    use serde_json::Value;

    use super::common::{PASSES, Ran, Workshop, folders};

    /// Longest time that a device may take; a software driver compiles its kernels for minutes.
    const LIMIT: Duration = Duration::from_mins(7);

    /// Another order of additions moves a loss of four nats by far less.
    const TOLERANCE_NATS: f64 = 0.02;

    /// Largest distance of a logged loss from the CPU's, over twenty steps.
    const STEP_TOLERANCE_NATS: f64 = 1e-3;

    /// All that a step can be made of, each of them logged: every loss term at a temperature that moves, micro-batches of
    /// unequal size, grouped heads, windows, shared layers, layers that run twice, an average; then masks and an adapter;
    /// then masks and a grid.
    const STEPS_RECIPE: &str = "\
name: steps
seed: 3
output: out
data: { train: [text/train.txt], validation: [text/validation.txt], sequence_length: 32, validation_tokens: 1k }
teacher: { checkpoint: teacher, batch_size: 4 }
cache: { support: { top_k: 16 }, temperatures: [1.0, 2.0], rows_per_shard: 64 }
student:
  architecture: { num_hidden_layers: 4, hidden_size: 32, num_attention_heads: 4, num_key_value_heads: 2, intermediate_size: 48, sliding_window: 8, layer_repeats: 2 }
passes:
  - distill:
      steps: 20
      tokens_per_step: 256
      micro_batch: 3
      learning_rate: 5e-3
      gradient_checkpointing: true
      temperature: { from: 2.0, to: 1.0, over: 0.5 }
      losses: { forward_kl: 0.3, reverse_kl: 0.1, jsd: 0.2, skew_forward_kl: 0.1, skew_reverse_kl: 0.1, tvd: 0.1, adaptive_kl: 0.1, cross_entropy: { weight: 0.4, label_smoothing: 0.1 } }
      ema: 0.9
      log_every: 1
  - prune: { method: wanda, sparsity: 0.5 }
  - distill: { steps: 20, tokens_per_step: 256, learning_rate: 5e-3, adapter: { rank: 4 }, log_every: 1 }
  - quantize: { method: qat, bits: 8, group_size: 16, steps: 20, tokens_per_step: 256, log_every: 1 }
export: { formats: [huggingface], dtype: f32 }
";

    /// Soft-caps of scores and logits, windows and GELU, against samples.
    const GEMMA_RECIPE: &str = "\
name: gemma
seed: 3
output: out
data: { train: [text/train.txt], validation: [text/validation.txt], sequence_length: 32, validation_tokens: 1k }
teacher: { checkpoint: gemma, batch_size: 4 }
cache: { tokens: 4k, support: { samples: 16 } }
student: { from_teacher: { layers: [0, 1] } }
passes:
  - distill: { steps: 20, tokens_per_step: 256, learning_rate: 1e-3, losses: { forward_kl: 0.5, cross_entropy: 0.5 }, log_every: 1 }
export: { formats: [huggingface], dtype: f32 }
";

    fn start_on(workshop: &Workshop, recipe: &str, name: &str) -> Child {
        let args = ["run", recipe, "--json", "--device", name];
        let mut command = workshop.command(&args);
        command
            .env("CUBECL_AUTOTUNE_LEVEL", "0")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.spawn().unwrap()
    }

    /// Waits until the program has ended or something else is there; whether it has ended in time, or why there is
    /// nothing to wait for.
    fn wait_until(child: &mut Child, is_there: impl Fn() -> bool) -> Result<(), String> {
        let since = Instant::now();
        while child.try_wait().unwrap().is_none() && !is_there() {
            if since.elapsed() > LIMIT {
                kill(child);
                return Err(format!("no result within {} s", LIMIT.as_secs()));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    fn kill(child: &mut Child) {
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// What the device made of a recipe, or why it made nothing.
    fn ran_on(workshop: &Workshop, recipe: &str, name: &str) -> Result<Ran, String> {
        let mut child = start_on(workshop, recipe, name);
        wait_until(&mut child, || false)?;
        let ran: Ran = child.wait_with_output().unwrap().into();
        match ran.code {
            Some(0) => Ok(ran),
            Some(2) if ran.stderr.contains("error[device]: no `") => Err(ran.stderr),
            Some(2) if ran.stderr.contains("multiplies two small matrices wrongly") => {
                Err(ran.stderr)
            }
            None => Err(format!("the driver crashed: {}", ran.stderr)),
            Some(code) => panic!("{name}: exit code {code}: {}", ran.stderr),
        }
    }

    /// Linked devices beside the CPU.
    fn others() -> impl Iterator<Item = &'static str> {
        let linked = device::linked().into_iter();
        linked.filter(|&name| name != "flex")
    }

    fn losses(ran: &Ran) -> Vec<f64> {
        let rows = ran.json()["passes"].clone();
        let rows: Vec<Value> = serde_json::from_value(rows).unwrap();
        let losses = rows.iter().map(|row| row["loss_nats"].as_f64().unwrap());
        losses.collect()
    }

    fn assert_losses(name: &str, got: &Ran, want: &[f64]) {
        for (got, want) in losses(got).iter().zip(want) {
            assert!(
                (got - want).abs() < TOLERANCE_NATS,
                "{name}: {got} for {want}"
            );
        }
    }

    /// What the passes of a run have logged of their steps.
    fn logged(run_dir: &Path) -> Vec<MetricsLine> {
        let passes = folders(run_dir, "0").into_iter();
        let trained = passes.filter(|dir| dir.join("metrics.jsonl").exists());
        let lines = trained.flat_map(|dir| read_metrics(&dir).unwrap());
        lines.filter(|line| line.step > 0).collect() // before the first step, what rounding costs
    }

    /// Every loss and every term of it, at every step; the largest distance.
    fn assert_steps(name: &str, got: &[MetricsLine], want: &[MetricsLine]) -> f64 {
        assert_eq!(got.len(), want.len(), "{name}");
        let mut largest = 0.0_f64;
        for (got, want) in got.iter().zip(want) {
            assert_eq!(got.step, want.step, "{name}");
            for (term, want) in &want.values {
                if ["train/tokens_per_sec", "train/grad_norm"].contains(&term.as_str()) {
                    continue;
                }
                let got = got.get(term).unwrap();
                let distance = (got - want).abs();
                assert!(
                    distance < STEP_TOLERANCE_NATS,
                    "{name}: {term} is {got} for {want}"
                );
                largest = largest.max(distance);
            }
        }
        largest
    }

    #[test]
    fn every_linked_device_runs_the_chain_to_the_losses_of_the_cpu() {
        let want = losses(&ran_on(&Workshop::new(), "chain.yaml", "flex").unwrap());
        assert_eq!(want.len(), 1 + PASSES.len(), "the teacher and each pass");
        for name in others() {
            match ran_on(&Workshop::new(), "chain.yaml", name) {
                Err(reason) => println!("{name} is skipped: {reason}"),
                Ok(ran) => assert_losses(name, &ran, &want),
            }
        }
    }

    #[test]
    fn every_linked_device_logs_the_losses_of_the_cpu_at_each_of_twenty_steps() {
        let gemma = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/hf-gemma2");
        for (recipe, text, num_steps) in [("steps", STEPS_RECIPE, 60), ("gemma", GEMMA_RECIPE, 20)]
        {
            let on = |name: &str| {
                let workshop = Workshop::new();
                workshop.copy_files(&gemma, "gemma");
                workshop.write("recipe.yaml", text.as_bytes());
                ran_on(&workshop, "recipe.yaml", name)?;
                Ok::<_, String>(logged(&workshop.path(&format!("out/{recipe}"))))
            };
            let want = on("flex").unwrap();
            assert_eq!(want.len(), num_steps, "{recipe}: one line for each step");
            for name in others() {
                match on(name) {
                    Err(reason) => println!("{name} is skipped: {reason}"),
                    Ok(got) => {
                        let largest = assert_steps(&format!("{recipe} on {name}"), &got, &want);
                        println!(
                            "{recipe} on {name}: losses within {largest:.1e} nats of the CPU's"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn a_pass_that_one_device_began_goes_on_on_another() {
        let want = losses(&ran_on(&Workshop::new(), "chain.yaml", "flex").unwrap());
        let others: Vec<&str> = others().collect();
        let pairs = others
            .iter()
            .flat_map(|&name| [("flex", name), (name, "flex")]);
        for (first, second) in pairs.chain([("flex", "flex")]) {
            let workshop = Workshop::new();
            let mut child = start_on(&workshop, "chain.yaml", first);
            let begun = || folders(&workshop.path("out/chain"), "unfinished-01-distill");
            let is_saved = || begun().iter().any(|dir| state::newest(dir).is_some());
            let waited = wait_until(&mut child, is_saved);
            if waited.is_ok() {
                kill(&mut child);
            }
            let went_on = waited.and_then(|()| {
                if is_saved() {
                    ran_on(&workshop, "chain.yaml", second)
                } else {
                    Err(format!("{first} came to no state"))
                }
            });
            match went_on {
                Err(reason) => println!("from {first} to {second} is skipped: {reason}"),
                Ok(ran) => {
                    let told = "01-distill: resumed at ";
                    assert!(ran.stderr.contains(told), "{second}: {}", ran.stderr);
                    assert_losses(second, &ran, &want);
                }
            }
        }
    }
}
