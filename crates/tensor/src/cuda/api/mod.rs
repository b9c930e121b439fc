//! The functions of NVIDIA's libraries that are called, with the signatures of its headers (`cuda.h`, `nvrtc.h`,
//! `cublasLt.h`), each an address that was looked up by its name when the library was opened.

pub mod cublaslt;
pub mod driver;
pub mod nvrtc;

/// A table of functions of one library. Each becomes a method that returns the call's status as a `Result`.
macro_rules! functions {
    ($(#[$doc:meta])* $table:ident of $kind:expr, explained by $explain:ident, {
        $($name:ident = $symbol:literal ($($arg:ident: $type:ty),*);)*
    }) => {
        $(#[$doc])*
        pub struct $table {
            $($name: unsafe extern "C" fn($($type),*) -> std::ffi::c_int,)*
        }
        #[allow(clippy::too_many_arguments, missing_docs, clippy::missing_safety_doc, dead_code)]
        impl $table {
            /// Opens the library and looks every function up.
            pub fn open() -> Result<Self, $crate::cuda::Error> {
                let library = $crate::cuda::Library::open($kind)?;
                $(let $name = {
                    let name = std::ffi::CString::new($symbol).expect("a name");
                    let address = library.symbol(&name).ok_or_else(|| $crate::cuda::Error::Symbol {
                        kind: $kind, name: $symbol.into(),
                    })?;
                    // SAFETY: the signature is that of the library's header.
                    unsafe { std::mem::transmute::<*mut std::ffi::c_void,
                        unsafe extern "C" fn($($type),*) -> std::ffi::c_int>(address) }
                };)*
                Ok(Self { $($name),* })
            }
            $(
                /// # Safety
                /// As the library's documentation asks.
                #[inline]
                pub unsafe fn $name(&self, $($arg: $type),*) -> Result<(), $crate::cuda::Error> {
                    // SAFETY: the caller's promise.
                    let status = unsafe { (self.$name)($($arg),*) };
                    if status == 0 { Ok(()) } else { Err(self.$explain($symbol, status)) }
                }
            )*
        }
        impl std::fmt::Debug for $table {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(stringify!($table))
            }
        }
    };
}
pub(crate) use functions;
