//! NVIDIA cards. Nothing is linked: every library is opened at run time, so a program built without a toolkit finds the
//! card of the machine it is copied to, and one without a card still runs.
//!
//! A card stands below the operators: as another storage of tensors, parameters, gradients and moments, and another body
//! of each operator (`bodies/`, which the operators of `ops/` call where their input lies on a card). Its kernels are in
//! `kernels/`, compiled by NVRTC for the card that is there; matrix products are cuBLASLt's.
//!
//! What goes wrong while computing (the card's memory is full, a kernel failed) is a panic that names the call, the code
//! and what helps; what can be known before is an [`Error`].

pub(crate) mod api;
pub(crate) mod bodies;
mod cached;
mod card;
pub mod check;
mod compile;
mod devices;
mod error;
mod library;
mod memory;
pub(crate) mod products;
mod staging;
mod system;

pub use bodies::adamw::{AdamWOnCard, AdamWStep};
pub use card::Card;
pub use devices::{CardInfo, Driver};
pub use error::Error;
pub use library::{Kind, Library, Missing, search_folders};
pub use memory::Usage;
pub use staging::Later;

pub(crate) use memory::Block;

/// Type of activations, and of the weights that products read. Sums are f32, and so are weights, gradients and moments
/// as they are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum DType {
    /// 32 bits.
    #[default]
    F32,
    /// 16 bits with the range of f32.
    Bf16,
}

impl DType {
    /// Bytes of a value.
    pub fn size(self) -> usize {
        match self {
            DType::F32 => 4,
            DType::Bf16 => 2,
        }
    }
}

/// Where to compute, as a user says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Device {
    /// This machine's processor.
    #[default]
    Cpu,
    /// The card of this number.
    Cuda(usize),
}

impl std::str::FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "cpu" => Ok(Device::Cpu),
            None if text == "cuda" => Ok(Device::Cuda(0)),
            Some(("cuda", number)) if number.parse::<usize>().is_ok() => {
                Ok(Device::Cuda(number.parse().expect("just tried")))
            }
            _ => Err(format!("`{text}` is no device: say `cpu`, `cuda`, or `cuda:1` for the second card")),
        }
    }
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Device::Cpu => f.write_str("cpu"),
            Device::Cuda(number) => write!(f, "cuda:{number}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Device;

    #[test]
    fn devices_are_read_as_they_are_written() {
        for device in [Device::Cpu, Device::Cuda(0), Device::Cuda(3)] {
            assert_eq!(device.to_string().parse(), Ok(device));
        }
        assert_eq!("cuda".parse(), Ok(Device::Cuda(0)));
        for wrong in ["gpu", "cuda:", "cuda:x", "CPU", "cuda:-1"] {
            assert!(wrong.parse::<Device>().unwrap_err().contains(wrong));
        }
    }
}
