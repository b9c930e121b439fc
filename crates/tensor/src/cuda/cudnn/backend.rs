//! cuDNN's backend: descriptors that are made, filled, finalised and destroyed, and errors that name what was asked for.

use super::names::{Attribute, Kind, Type};
use crate::cuda::calls::{CudnnCalls, Handle, Status};
use crate::cuda::{CardError, Library};
use std::ffi::{CStr, c_char, c_void};
use std::ptr;
use std::sync::Arc;

/// `cudnnGetLastErrorString`.
type LastError = unsafe extern "C" fn(*mut c_char, usize);

/// The functions of an opened library.
pub(super) struct Backend {
    pub calls: CudnnCalls,
    last_error: Option<LastError>,
    /// As `cudnnGetVersion` counts: 92801 is 9.28.1.
    pub version: usize,
}

impl Backend {
    pub fn of(library: &Library) -> Result<Arc<Self>, CardError> {
        let calls = CudnnCalls::of(library)?;
        let version = library.symbol(c"cudnnGetVersion").map_or(0, |address| {
            // SAFETY: the signature is that of cudnn_graph.h; nothing needs to be set up before.
            unsafe { std::mem::transmute::<Handle, extern "C" fn() -> usize>(address)() }
        });
        // SAFETY: the signature is that of cudnn_graph.h.
        let last_error = library
            .symbol(c"cudnnGetLastErrorString")
            .map(|address| unsafe { std::mem::transmute::<Handle, LastError>(address) });
        Ok(Arc::new(Self { calls, last_error, version }))
    }

    /// The answer of a call as a result; `what` is the descriptor and the attribute.
    pub fn check(
        &self,
        call: &'static str,
        code: Status,
        what: impl FnOnce() -> String,
    ) -> Result<(), CardError> {
        if code == 0 {
            return Ok(());
        }
        let mut text = [0 as c_char; 1024];
        if let Some(last_error) = self.last_error {
            // SAFETY: the buffer is as long as is said, and its last byte is a zero in any case.
            unsafe { last_error(text.as_mut_ptr(), text.len() - 1) };
        }
        // SAFETY: as above.
        let said = unsafe { CStr::from_ptr(text.as_ptr()) }.to_string_lossy().into_owned();
        let said = if said.is_empty() { String::new() } else { format!(": {said}") };
        Err(CardError::Call { call, code, text: format!("{}{said}", what()) })
    }
}

/// A descriptor; dropped, it is destroyed.
pub(super) struct Descriptor {
    backend: Arc<Backend>,
    kind: Kind,
    handle: Handle,
}

// SAFETY: a descriptor is a value on the host that any thread may use, one at a time; the owner is behind a lock.
unsafe impl Send for Descriptor {}

impl Descriptor {
    pub fn new(backend: &Arc<Backend>, kind: Kind) -> Result<Self, CardError> {
        let mut handle = ptr::null_mut();
        let make = &backend.calls.make;
        // SAFETY: the pointer is to a live variable.
        let code = unsafe { (make.call)(kind.code, &mut handle) };
        backend.check(make.name, code, || format!("a descriptor of kind {}", kind.name))?;
        Ok(Self { backend: Arc::clone(backend), kind, handle })
    }

    /// What cuDNN calls it.
    pub fn handle(&self) -> Handle {
        self.handle
    }

    /// Sets an attribute. Panics if the values are not of its size.
    pub fn set<T: Copy>(&self, attribute: Attribute, values: &[T]) -> Result<&Self, CardError> {
        assert_eq!(size_of::<T>(), attribute.of.size, "{}", attribute.name);
        let (Type { code: of, .. }, count) = (attribute.of, values.len() as i64);
        let set = &self.backend.calls.set;
        // SAFETY: the pointer is to `count` values of the attribute's type.
        let code = unsafe { (set.call)(self.handle, attribute.code, of, count, values.as_ptr().cast()) };
        self.backend.check(set.name, code, || format!("{} of a {}", attribute.name, self.kind.name))?;
        Ok(self)
    }

    /// Sets an attribute to other descriptors, which the caller keeps for as long as this one.
    pub fn link(&self, attribute: Attribute, others: &[&Descriptor]) -> Result<&Self, CardError> {
        let handles: Vec<Handle> = others.iter().map(|other| other.handle).collect();
        self.set(attribute, &handles)
    }

    /// Ends filling it: cuDNN looks at what it was given.
    pub fn finalize(&self) -> Result<&Self, CardError> {
        let finalize = &self.backend.calls.finalize;
        // SAFETY: the descriptor is alive.
        let code = unsafe { (finalize.call)(self.handle) };
        self.backend.check(finalize.name, code, || format!("a {}", self.kind.name))?;
        Ok(self)
    }

    /// Reads an attribute of at most as many values as there is room for, and returns how many there are.
    pub fn get<T: Copy>(&self, attribute: Attribute, values: &mut [T]) -> Result<usize, CardError> {
        assert_eq!(size_of::<T>(), attribute.of.size, "{}", attribute.name);
        let mut count = 0i64;
        let room = values.len() as i64;
        let into = values.as_mut_ptr().cast::<c_void>();
        let get = &self.backend.calls.get;
        // SAFETY: there is room for as many values of the attribute's type as is said.
        let code =
            unsafe { (get.call)(self.handle, attribute.code, attribute.of.code, room, &mut count, into) };
        self.backend.check(get.name, code, || format!("{} of a {}", attribute.name, self.kind.name))?;
        Ok(usize::try_from(count).unwrap_or(0))
    }

    /// Reads an attribute that is one number.
    pub fn number<T: Copy + Default>(&self, attribute: Attribute) -> Result<T, CardError> {
        let mut value = [T::default()];
        self.get(attribute, &mut value)?;
        Ok(value[0])
    }

    /// Reads an attribute that holds descriptors of a kind, at most as many as there is room for. (Some attributes do not
    /// tell their number beforehand.)
    pub fn descriptors(
        &self,
        attribute: Attribute,
        kind: Kind,
        room: usize,
    ) -> Result<Vec<Descriptor>, CardError> {
        let found: Result<Vec<_>, _> = (0..room).map(|_| Descriptor::new(&self.backend, kind)).collect();
        let mut found = found?;
        let mut handles: Vec<Handle> = found.iter().map(|descriptor| descriptor.handle).collect();
        let filled = self.get(attribute, &mut handles)?;
        found.truncate(filled);
        Ok(found)
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: it was made by `make` and is destroyed once.
        let _ = unsafe { (self.backend.calls.destroy.call)(self.handle) };
    }
}
