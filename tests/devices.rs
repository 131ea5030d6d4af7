//! The chain on every linked device: each in a process of its own, so that a driver's crash is a skip and not a lost run.

#[cfg(test)]
mod common;

#[cfg(test)]
mod tests {
    use std::process::Stdio;
    use std::time::{Duration, Instant};

    use alambic::device;
    use alambic::train::state;
    use serde_json::Value;

    use super::common::{PASSES, Ran, Workshop, folders, wait_for};

    /// Longest time that a device may take; a software driver compiles its kernels for minutes.
    const LIMIT: Duration = Duration::from_mins(7);

    /// Another order of additions moves a loss of four nats by far less.
    const TOLERANCE_NATS: f64 = 0.02;

    /// What the device made of the chain, or why it made nothing.
    fn ran_on(workshop: &Workshop, name: &str) -> Result<Ran, String> {
        let args = ["run", "chain.yaml", "--json", "--device", name];
        let mut command = workshop.command(&args);
        command
            .env("CUBECL_AUTOTUNE_LEVEL", "0")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let since = Instant::now();
        while child.try_wait().unwrap().is_none() {
            if since.elapsed() > LIMIT {
                child.kill().unwrap();
                child.wait().unwrap();
                return Err(format!("no result within {} s", LIMIT.as_secs()));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
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

    #[test]
    fn every_linked_device_runs_the_chain_to_the_losses_of_the_cpu() {
        let want = losses(&ran_on(&Workshop::new(), "flex").unwrap());
        assert_eq!(want.len(), 1 + PASSES.len(), "the teacher and each pass");
        for name in device::linked().into_iter().filter(|&name| name != "flex") {
            match ran_on(&Workshop::new(), name) {
                Err(reason) => println!("{name} is skipped: {reason}"),
                Ok(ran) => assert_losses(name, &ran, &want),
            }
        }
    }

    #[test]
    fn a_pass_that_the_cpu_began_goes_on_on_every_linked_device() {
        let want = losses(&ran_on(&Workshop::new(), "flex").unwrap());
        for name in device::linked() {
            let workshop = Workshop::new();
            let mut child = workshop.start(&["run", "chain.yaml"]);
            let begun = || folders(&workshop.path("out/chain"), ".partial-01-distill");
            wait_for("state", || {
                begun().iter().any(|dir| state::newest(dir).is_some())
            });
            child.kill().unwrap();
            child.wait().unwrap();
            match ran_on(&workshop, name) {
                Err(reason) => println!("{name} is skipped: {reason}"),
                Ok(ran) => {
                    let told = "01-distill: resumed at ";
                    assert!(ran.stderr.contains(told), "{name}: {}", ran.stderr);
                    assert_losses(name, &ran, &want);
                }
            }
        }
    }
}
