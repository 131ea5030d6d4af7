//! Losses of steps, read from the device when they are needed.
//!
//! Where a read stalls the device, a step leaves its few numbers there and the next one begins. All are read at
//! once, in the order of their steps, so that reports on a step do not depend on when it was read.

use burn::tensor::Tensor;

use crate::device::ReadBack;
use crate::loss::{LossSums, PendingSums};
use crate::student::Student;
use crate::tensors;

/// Most steps whose numbers stay on the device, however seldom a run logs. It bounds how long training continues after
/// a NaN, and how far the host runs ahead of the device. One read in so many steps has no measurable cost.
const MOST_UNREAD: usize = 64;

/// Loss and gradient norm of a step.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reading {
    /// Means over the counted positions of the step.
    pub(super) means: LossSums,
    /// Norm of all gradients before clipping.
    pub(super) norm: f64,
}

/// A loss or gradient norm that is NaN or infinite.
#[derive(Debug, PartialEq)]
pub(super) struct UnsoundStep {
    pub(super) what: &'static str,
    pub(super) value: f64,
    pub(super) step: usize,
}

/// Steps that were read, and steps that were not.
pub(super) struct PendingLosses {
    read_back: ReadBack,
    unread: Vec<UnreadStep>,
    newest: Option<Reading>,
}

struct UnreadStep {
    step: usize,
    sums: PendingSums,
    /// Norm of all gradients before clipping, `[1]`.
    norm: Tensor<1>,
}

impl PendingLosses {
    pub(super) fn new(read_back: ReadBack) -> Self {
        Self {
            read_back,
            unread: Vec::new(),
            newest: None,
        }
    }

    /// Records a step, which is read at once where reading is free.
    pub(super) fn note(
        &mut self,
        step: usize,
        sums: PendingSums,
        norm: Tensor<1>,
    ) -> Result<(), UnsoundStep> {
        self.unread.push(UnreadStep { step, sums, norm });
        if self.read_back == ReadBack::Free || self.unread.len() >= MOST_UNREAD {
            self.read()?;
        }
        Ok(())
    }

    /// Reads all unread steps; returns the newest step of all, `None` if there was none.
    ///
    /// # Errors
    ///
    /// The first step whose loss or gradient is NaN or infinite.
    pub(super) fn read(&mut self) -> Result<Option<Reading>, UnsoundStep> {
        let unread = std::mem::take(&mut self.unread);
        let numbers = unread.iter().flat_map(|UnreadStep { sums, norm, .. }| {
            sums.unread().into_iter().chain([norm.clone()])
        });
        let numbers: Vec<Tensor<1>> = numbers.collect();
        if numbers.is_empty() {
            return Ok(self.newest);
        }
        let numbers = Tensor::cat(numbers, 0).try_into_vec_as::<f32>();
        let numbers = numbers.expect("losses and norms are f32");
        let mut rest = numbers.as_slice();
        for UnreadStep { step, sums, .. } in unread {
            let (of_sums, others) = rest.split_at(sums.num_unread());
            let (norm, others) = others.split_first().expect("a norm for each step");
            rest = others;
            let reading = Reading {
                means: sums.with_read(of_sums).means(),
                norm: f64::from(*norm),
            };
            let loss = reading.means.total;
            for (what, value) in [("loss", loss), ("gradient norm", reading.norm)] {
                if !value.is_finite() {
                    return Err(UnsoundStep { what, value, step });
                }
            }
            self.newest = Some(reading);
        }
        Ok(self.newest)
    }
}

/// Largest absolute value of the trained matrices; NaN if one is NaN.
///
/// The host computes it: a driver may assume that there is no NaN, and its maximum then skips them.
pub(super) fn largest_weight(student: &Student) -> f64 {
    let weights = student.trained().into_iter();
    let weights = weights.flat_map(|(_, weight)| tensors::to_vec(&weight));
    let largest = weights.map(f32::abs).fold(0.0_f32, |largest, weight| {
        if weight.is_nan() || weight > largest {
            weight
        } else {
            largest
        }
    });
    f64::from(largest)
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};

    use super::*;
    use crate::loss::Terms;

    fn scalar(value: f32) -> Tensor<1> {
        Tensor::from_data(TensorData::new(vec![value], [1]), &Device::flex())
    }

    /// Notes a step of two positions with this loss.
    fn note(
        pending: &mut PendingLosses,
        step: usize,
        loss: f64,
        norm: f32,
    ) -> Result<(), UnsoundStep> {
        let sums = LossSums {
            total: 2.0 * loss,
            terms: Terms::ZERO,
            positions: 2,
        };
        pending.note(step, sums.into(), scalar(norm))
    }

    #[test]
    fn where_reading_is_free_a_step_is_refused_as_it_comes() {
        let mut pending = PendingLosses::new(ReadBack::Free);
        assert!(pending.read().unwrap().is_none());
        note(&mut pending, 7, 3.0, 0.5).unwrap();
        let newest = pending.read().unwrap().unwrap();
        assert_eq!((newest.means.total, newest.norm), (3.0, 0.5));
        let error = note(&mut pending, 8, 3.0, f32::INFINITY).unwrap_err();
        let (what, value, step) = ("gradient norm", f64::INFINITY, 8);
        assert_eq!(error, UnsoundStep { what, value, step });
    }

    #[test]
    fn where_it_stalls_a_step_is_refused_by_its_number_when_it_is_read() {
        let mut pending = PendingLosses::new(ReadBack::Stalls);
        for (step, loss, norm) in [(4, 2.0, 1.0), (5, 2.0, 1.0), (6, f64::NAN, 1.0)] {
            note(&mut pending, step, loss, norm).unwrap();
        }
        note(&mut pending, 7, 2.0, f32::NAN).unwrap();
        let error = pending.read().unwrap_err();
        assert_eq!((error.what, error.step), ("loss", 6));
        assert!(error.value.is_nan());
    }

    #[test]
    fn no_more_steps_than_so_many_go_unread() {
        let mut pending = PendingLosses::new(ReadBack::Stalls);
        note(&mut pending, 0, f64::NAN, 1.0).unwrap();
        let last = (1..1000).find(|&step| note(&mut pending, step, 2.0, 1.0).is_err());
        assert_eq!(last, Some(MOST_UNREAD - 1));
    }
}
