//! Cost of rounding alone for a student, measured before any training against it: is the training worth it?

use std::path::Path;
use std::sync::atomic::Ordering;
use std::{fmt, io};

use serde::{Deserialize, Serialize};

use super::{PassError, saved};
use crate::calibration::Interrupted;
use crate::files::{read_json, write_json};
use crate::progress::{decimals, log, percent};
use crate::student::Student;
use crate::train::evaluate::{Reference, measure};
use crate::train::fit::PassContext;
use crate::train::{FitError, check_number};
use crate::train::{MetricsError, MetricsLog, state};

/// File in the folder of a pass that trains against its rounding.
const FILE: &str = "rounding.json";

/// Share of the loss below which there is little for training to win back.
const WORTH_FRAC: f64 = 0.01;

/// Losses on the validation text, in nats, of the student that enters a pass.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Rounding {
    /// Loss of the student as it came.
    pub loss_before_nats: f64,
    /// Loss with every weight rounded to the nearest value of its grid, and nothing trained.
    pub loss_rounded_nats: f64,
}

impl Rounding {
    /// Loss that rounding adds, in nats; below 0 if it helps.
    pub fn cost_nats(&self) -> f64 {
        self.loss_rounded_nats - self.loss_before_nats
    }

    /// Loss that rounding adds, as a share of the loss before.
    pub fn cost_frac(&self) -> f64 {
        self.cost_nats() / self.loss_before_nats
    }

    /// True if training against the rounding has at least a hundredth of the loss to win back.
    pub fn is_worth_training(&self) -> bool {
        self.cost_frac() >= WORTH_FRAC
    }

    /// Measures both students once; a resumed pass reads what it measured when it began.
    pub(super) fn measure(
        given: &Student,
        rounded: &Student,
        context: &PassContext<'_>,
    ) -> Result<Self, PassError> {
        let found = if let Some(found) = saved(context, Self::read(context.dir))? {
            found
        } else {
            let found = Self {
                loss_before_nats: loss(given, context)?,
                loss_rounded_nats: loss(rounded, context)?,
            };
            // A pass that an earlier version began has a record already.
            if state::newest(context.dir).is_none() {
                found.log(context).map_err(FitError::from)?;
            }
            saved(context, write_json(&context.dir.join(FILE), &found))?;
            found
        };
        found.print(context.label);
        Ok(found)
    }

    /// Losses that a pass wrote, if it measured them.
    pub fn read(dir: &Path) -> io::Result<Option<Self>> {
        read_json(&dir.join(FILE))
    }

    fn log(&self, context: &PassContext<'_>) -> Result<(), MetricsError> {
        let mut log = MetricsLog::open(context.dir, None, context.wall_time)?;
        let values = [
            ("rounding/loss_before", self.loss_before_nats),
            ("rounding/loss_rounded", self.loss_rounded_nats),
        ];
        log.log(0, &values)?;
        log.sync()
    }

    fn print(&self, label: &str) {
        log(&format!("{label}: {self}"));
        if !self.is_worth_training() {
            log(&format!(
                "note: {label}: rounding raises the loss by less than 1 %, so training has little to recover; `method: gptq` with `clip: true` and `damping: 0.1` needs none"
            ));
        }
    }
}

/// Text such as `rounding alone costs 0.0009 nats (0.02 %): a loss of 4.1229 after 4.1220`.
impl fmt::Display for Rounding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "rounding alone costs {} nats ({} %): a loss of {} after {}",
            decimals(self.cost_nats(), 4),
            percent(self.cost_frac(), 2),
            decimals(self.loss_rounded_nats, 4),
            decimals(self.loss_before_nats, 4)
        )
    }
}

fn loss(student: &Student, context: &PassContext<'_>) -> Result<f64, PassError> {
    let going_on = |_| !context.stop.load(Ordering::Relaxed);
    let rows = context.validation;
    let measured = measure(&student.effective(), rows, Reference::None, going_on);
    let Some(measured) = measured.map_err(FitError::from)? else {
        let label = context.label.to_owned();
        return Err(Interrupted { label }.into());
    };
    check_number("validation loss", measured.loss_nats, 0, context)?;
    Ok(measured.loss_nats)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_rounding_costs_is_told_in_nats_and_as_a_share_and_may_be_a_gain() {
        let of = |rounded| Rounding {
            loss_before_nats: 4.0,
            loss_rounded_nats: rounded,
        };
        let told = of(4.01).to_string();
        let want = "rounding alone costs 0.0100 nats (0.25 %): a loss of 4.0100 after 4.0000";
        assert_eq!(told, want);
        let worth = [3.9, 4.0, 4.039, 4.041].map(|rounded| of(rounded).is_worth_training());
        assert_eq!(worth, [false, false, false, true]);
    }
}
