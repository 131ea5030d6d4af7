//! Mapping from device names to Burn devices, and all code that depends on Burn's backends.

use burn::tensor::{Device, Tensor, TensorData};
use thiserror::Error;

/// Device names in recipes and for `--device`, each with the cargo feature of the same name.
pub const DEVICE_NAMES: [&str; 5] = ["flex", "wgpu", "vulkan", "tch", "cuda"];

/// Name of the device that computes unless a recipe names another: the CPU.
pub const HOST: &str = "flex";

/// Reasons why a device cannot be used.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum DeviceError {
    /// Not a name of [`DEVICE_NAMES`].
    #[error("`{name}` is not a device; known devices: {}", DEVICE_NAMES.join(", "))]
    Unknown {
        /// Name as the user typed it.
        name: String,
    },
    /// The name is known, but this binary was built without its backend.
    #[error(
        "device `{name}` is not linked into this binary (it has {}); build it in with `cargo build --release --features {name}`",
        linked().join(", ")
    )]
    NotLinked {
        /// The requested device.
        name: String,
    },
    /// The backend is linked, but the machine has no such device.
    #[error("no `{name}` device on this machine; {help}")]
    Absent {
        /// The requested device.
        name: String,
        /// Advice on how to get one.
        help: &'static str,
    },
    /// The device multiplies matrices wrongly; a broken driver does so without an error.
    #[error(
        "device `{name}` multiplies two small matrices wrongly, so its results cannot be trusted; update its driver or use another device (`--device`)"
    )]
    Wrong {
        /// The requested device.
        name: String,
    },
    /// The system does not start the threads that compute.
    #[error("the threads that compute cannot be started: {reason}")]
    Threads {
        /// Message of the system.
        reason: String,
    },
}

impl DeviceError {
    /// Help, if the message does not contain it.
    pub fn help(&self) -> Option<String> {
        matches!(self, Self::Threads { .. }).then(|| {
            "let this user have more processes and memory (`ulimit -u` and `ulimit -v` show the limits), or start fewer \
             threads: `RAYON_NUM_THREADS=1 alambic ...`"
                .to_owned()
        })
    }
}

/// Starts the threads that compute, which otherwise start at their first use and panic if they cannot.
pub fn start_threads() -> Result<(), DeviceError> {
    match rayon::ThreadPoolBuilder::new().build_global() {
        Ok(()) => Ok(()),
        Err(error) => match std::error::Error::source(&error) {
            Some(reason) => Err(DeviceError::Threads {
                reason: reason.to_string(),
            }),
            None => Ok(()), // they run already
        },
    }
}

/// Devices whose backend is linked into this binary.
pub fn linked() -> Vec<&'static str> {
    let has = [
        cfg!(feature = "flex"),
        cfg!(feature = "wgpu"),
        cfg!(feature = "vulkan"),
        cfg!(feature = "tch"),
        cfg!(feature = "cuda"),
    ];
    DEVICE_NAMES
        .into_iter()
        .zip(has)
        .filter_map(|(name, linked)| linked.then_some(name))
        .collect()
}

/// Opens the device of that name, and checks it with one matrix product.
///
/// Tensors on it record no autodiff graph; training requests gradients leaf by leaf.
pub fn open(name: &str) -> Result<Device, DeviceError> {
    let device = find(name)?;
    if multiplies(&device) {
        Ok(device)
    } else {
        Err(DeviceError::Wrong {
            name: name.to_owned(),
        })
    }
}

fn find(name: &str) -> Result<Device, DeviceError> {
    match name {
        #[cfg(feature = "flex")]
        "flex" => Ok(Device::flex()),
        #[cfg(feature = "wgpu")]
        "wgpu" => first_of(burn::tensor::DeviceType::Wgpu, name, GPU_HELP),
        #[cfg(feature = "vulkan")]
        "vulkan" => first_of(burn::tensor::DeviceType::Vulkan, name, GPU_HELP),
        #[cfg(feature = "tch")]
        "tch" => {
            #[expect(
                deprecated,
                reason = "libtorch is optional here and goes when Burn drops it"
            )]
            let device = Device::libtorch();
            Ok(device)
        }
        #[cfg(feature = "cuda")]
        "cuda" => first_of(
            burn::tensor::DeviceType::Cuda,
            name,
            "an NVIDIA GPU with its driver and the CUDA 12 toolkit is needed",
        ),
        name if DEVICE_NAMES.contains(&name) => Err(DeviceError::NotLinked {
            name: name.to_owned(),
        }),
        name => Err(DeviceError::Unknown {
            name: name.to_owned(),
        }),
    }
}

/// Number of forward passes to run at once: on a CPU one per core, because most operations of a small model are too
/// small to be split; one on any other device.
pub fn parallelism(device: &Device) -> usize {
    if is_host(device) {
        rayon::current_num_threads()
    } else {
        1
    }
}

/// Cost of reading a tensor's value while a step is computed.
///
/// It decides where a step's small values are kept: where reading is free they are computed on the host and checked at
/// once; where it stalls, everything stays on the device until it is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadBack {
    /// No cost: tensors are in the process's own memory.
    Free,
    /// The device has to finish all its work, and is idle until it gets more.
    Stalls,
}

impl ReadBack {
    /// Cost on this device.
    pub fn of(device: &Device) -> Self {
        if is_host(device) {
            Self::Free
        } else {
            Self::Stalls
        }
    }
}

/// True if tensors of this device are in the process's own memory, where several threads may work on
/// separate graphs at once and reading a tensor costs nothing.
pub(crate) fn is_host(device: &Device) -> bool {
    #[cfg(feature = "flex")]
    {
        *device == Device::flex()
    }
    #[cfg(not(feature = "flex"))]
    {
        let _ = device;
        false
    }
}

#[cfg(any(feature = "wgpu", feature = "vulkan"))]
const GPU_HELP: &str = "install a Vulkan driver and check that `vulkaninfo` lists a device";

#[cfg(any(feature = "wgpu", feature = "vulkan", feature = "cuda"))]
fn first_of(
    kind: burn::tensor::DeviceType,
    name: &str,
    help: &'static str,
) -> Result<Device, DeviceError> {
    let found = crate::panics::caught(|| Device::enumerate(kind).into_vec());
    found
        .and_then(|devices| devices.into_iter().next())
        .ok_or(DeviceError::Absent {
            name: name.to_owned(),
            help,
        })
}

/// True if the device's matrix product, the operation that drivers get wrong, is right in every bit. Sums of products
/// of small integers are exact in any order and at any width of float.
fn multiplies(device: &Device) -> bool {
    const ROWS: usize = 24;
    const INNER: usize = 40;
    const COLUMNS: usize = 36;
    let whole = |rows: usize, columns: usize, step: u16| -> Vec<f32> {
        let values = (0..rows * columns).map(|at| at % usize::from(step));
        values
            .map(|value| value as f32 - f32::from(step / 2))
            .collect()
    };
    let (left, right) = (whole(ROWS, INNER, 7), whole(INNER, COLUMNS, 5));
    let want = (0..ROWS * COLUMNS).map(|at| {
        let (row, column) = (at / COLUMNS, at % COLUMNS);
        let terms = (0..INNER).map(|k| left[row * INNER + k] * right[k * COLUMNS + column]);
        terms.sum::<f32>()
    });
    let tensor = |values: &[f32], shape: [usize; 2]| {
        Tensor::<2>::from_data(TensorData::new(values.to_vec(), shape), device)
    };
    let product = tensor(&left, [ROWS, INNER]).matmul(tensor(&right, [INNER, COLUMNS]));
    product.into_data().iter::<f32>().eq(want)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unlinked_device_says_how_to_get_it() {
        let missing = DEVICE_NAMES
            .into_iter()
            .find(|name| !linked().contains(name));
        let Some(name) = missing else { return };
        let message = open(name).unwrap_err().to_string();
        assert!(message.contains(&format!("--features {name}")), "{message}");
    }

    #[test]
    #[cfg(feature = "flex")]
    fn the_cpu_multiplies_rightly() {
        assert!(multiplies(&Device::flex()));
    }

    #[test]
    fn an_unknown_device_lists_the_known_ones() {
        let message = open("cdua").unwrap_err().to_string();
        assert!(
            message.starts_with("`cdua` is not a device") && message.contains("vulkan"),
            "{message}"
        );
    }
}
