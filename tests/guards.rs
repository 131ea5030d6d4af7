//! Guards round what alambic does not own: libraries that panic, threads that do not start.

#[cfg(test)]
mod common;

#[cfg(test)]
mod tests {
    use std::panic::{catch_unwind, set_hook, take_hook};
    use std::sync::{Arc, Mutex};
    use std::thread;

    use alambic::panics::caught;

    use crate::common::{Ran, Workshop};

    #[test]
    fn a_caught_panic_is_not_told_and_the_next_one_is() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let (heard, harness) = (told.clone(), take_hook());
        let here = thread::current().id();
        set_hook(Box::new(move |info| {
            if thread::current().id() == here {
                let text = info.payload().downcast_ref::<&str>().copied();
                heard.lock().unwrap().extend(text.map(str::to_owned));
            } else {
                harness(info);
            }
        }));
        assert_eq!(caught(|| 7), Some(7));
        let inner = || panic!("of the library");
        assert_eq!(caught(inner), None::<()>);
        let nested = caught(|| {
            assert_eq!(caught(inner), None::<()>);
            panic!("of the library, too")
        });
        assert_eq!(nested, None::<()>);
        assert!(catch_unwind(|| panic!("of alambic")).is_err());
        assert_eq!(*told.lock().unwrap(), ["of alambic"]);
    }

    /// Runs the program where no thread finds memory for its stack.
    fn without_threads(workshop: &Workshop, args: &[&str]) -> Ran {
        let mut command = std::process::Command::new("sh");
        command.current_dir(workshop.path(""));
        command.env("RUST_MIN_STACK", (1_u64 << 40).to_string());
        command.args(["-c", "ulimit -v 8000000; exec \"$0\" \"$@\""]);
        command.arg(env!("CARGO_BIN_EXE_alambic")).args(args);
        command.output().unwrap().into()
    }

    #[test]
    fn threads_that_do_not_start_are_one_message() {
        let workshop = Workshop::new();
        for args in [
            &["run", "chain.yaml"][..],
            &["plan", "chain.yaml"],
            &["inspect", "teacher"],
            &["evaluate", "teacher", "--text", "text/validation.txt"],
        ] {
            let ran = without_threads(&workshop, args);
            assert_eq!(ran.code, Some(2), "{args:?}: {}", ran.stderr);
            assert_eq!(ran.stdout, "", "{args:?}");
            let told = "error[device/threads]: the threads that compute cannot be started: ";
            assert!(ran.stderr.starts_with(told), "{args:?}: {}", ran.stderr);
            let help = "  = help: let this user have more processes and memory";
            assert!(ran.stderr.contains(help), "{args:?}: {}", ran.stderr);
            assert_eq!(ran.stderr.trim_end().lines().count(), 2, "{}", ran.stderr);
        }
        let ran = without_threads(&workshop, &["schema"]);
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    }
}
