//! Descriptors, attributes and modes as `cudnn_graph.h` names and numbers them, as far as attention needs them. Numbers
//! never change within cuDNN 9.

/// What values of an attribute are.
#[derive(Clone, Copy)]
pub(super) struct Type {
    pub code: i32,
    /// Bytes of one value.
    pub size: usize,
}

const HANDLE: Type = Type { code: 0, size: 8 };
const DATA_TYPE: Type = Type { code: 1, size: 4 };
const BOOLEAN: Type = Type { code: 2, size: 1 };
const INT64: Type = Type { code: 3, size: 8 };
const DOUBLE: Type = Type { code: 5, size: 8 };
const VOID_PTR: Type = Type { code: 6, size: 8 };
const HEUR_MODE: Type = Type { code: 8, size: 4 };
const KNOB_TYPE: Type = Type { code: 9, size: 4 };
const POINTWISE: Type = Type { code: 14, size: 4 };
const BACKEND_DESCRIPTOR: Type = Type { code: 15, size: 8 };
const REDUCTION_OPERATOR_TYPE: Type = Type { code: 18, size: 4 };
const CHAR: Type = Type { code: 24, size: 1 };

/// An attribute of a descriptor: `CUDNN_ATTR_` and its name.
#[derive(Clone, Copy)]
pub(super) struct Attribute {
    pub name: &'static str,
    pub code: i32,
    pub of: Type,
}

/// A kind of descriptor: its name between `CUDNN_BACKEND_` and `_DESCRIPTOR`.
#[derive(Clone, Copy)]
pub(super) struct Kind {
    pub name: &'static str,
    pub code: i32,
}

macro_rules! kinds {
    ($($name:ident = $code:literal)*) => {
        /// Kinds of descriptors.
        pub(super) mod kind {
            use super::Kind;
            $(pub const $name: Kind = Kind { name: stringify!($name), code: $code };)*
        }
    };
}

macro_rules! attributes {
    ($($name:ident = $code:literal $of:ident)*) => {
        /// Attributes of descriptors.
        pub(super) mod attribute {
            use super::{
                Attribute, BACKEND_DESCRIPTOR, BOOLEAN, CHAR, DATA_TYPE, DOUBLE, HANDLE, HEUR_MODE, INT64, KNOB_TYPE,
                POINTWISE, REDUCTION_OPERATOR_TYPE, VOID_PTR,
            };
            $(pub const $name: Attribute = Attribute { name: stringify!($name), code: $code, of: $of };)*
        }
    };
}

kinds! {
    POINTWISE = 0
    ENGINE = 2
    ENGINECFG = 3
    ENGINEHEUR = 4
    EXECUTION_PLAN = 5
    KNOB_CHOICE = 7
    OPERATION_POINTWISE = 13
    OPERATIONGRAPH = 15
    VARIANT_PACK = 16
    TENSOR = 17
    MATMUL = 18
    OPERATION_MATMUL = 19
    REDUCTION = 21
    OPERATION_REDUCTION = 22
    OPERATION_RESHAPE = 31
    DEVICEPROP = 38
}

attributes! {
    POINTWISE_MODE = 0 POINTWISE
    POINTWISE_MATH_PREC = 1 DATA_TYPE
    POINTWISE_AXIS = 9 INT64
    ENGINEHEUR_MODE = 200 HEUR_MODE
    ENGINEHEUR_OPERATION_GRAPH = 201 BACKEND_DESCRIPTOR
    ENGINEHEUR_RESULTS = 202 BACKEND_DESCRIPTOR
    ENGINEHEUR_DEVICEPROP = 204 BACKEND_DESCRIPTOR
    ENGINECFG_ENGINE = 300 BACKEND_DESCRIPTOR
    ENGINECFG_KNOB_CHOICES = 302 BACKEND_DESCRIPTOR
    EXECUTION_PLAN_HANDLE = 400 HANDLE
    EXECUTION_PLAN_ENGINE_CONFIG = 401 BACKEND_DESCRIPTOR
    EXECUTION_PLAN_WORKSPACE_SIZE = 402 INT64
    EXECUTION_PLAN_DEVICEPROP = 407 BACKEND_DESCRIPTOR
    KNOB_CHOICE_KNOB_TYPE = 600 KNOB_TYPE
    KNOB_CHOICE_KNOB_VALUE = 601 INT64
    OPERATION_POINTWISE_PW_DESCRIPTOR = 750 BACKEND_DESCRIPTOR
    OPERATION_POINTWISE_XDESC = 751 BACKEND_DESCRIPTOR
    OPERATION_POINTWISE_BDESC = 752 BACKEND_DESCRIPTOR
    OPERATION_POINTWISE_YDESC = 753 BACKEND_DESCRIPTOR
    OPERATION_POINTWISE_TDESC = 758 BACKEND_DESCRIPTOR
    OPERATIONGRAPH_HANDLE = 800 HANDLE
    OPERATIONGRAPH_OPS = 801 BACKEND_DESCRIPTOR
    TENSOR_BYTE_ALIGNMENT = 900 INT64
    TENSOR_DATA_TYPE = 901 DATA_TYPE
    TENSOR_DIMENSIONS = 902 INT64
    TENSOR_STRIDES = 903 INT64
    TENSOR_UNIQUE_ID = 906 INT64
    TENSOR_IS_VIRTUAL = 907 BOOLEAN
    TENSOR_IS_BY_VALUE = 908 BOOLEAN
    TENSOR_RAGGED_OFFSET_DESC = 913 BACKEND_DESCRIPTOR
    VARIANT_PACK_UNIQUE_IDS = 1000 INT64
    VARIANT_PACK_DATA_POINTERS = 1001 VOID_PTR
    VARIANT_PACK_WORKSPACE = 1003 VOID_PTR
    ENGINE_OPERATION_GRAPH = 1300 BACKEND_DESCRIPTOR
    ENGINE_GLOBAL_INDEX = 1301 INT64
    ENGINE_DEVICEPROP = 1307 BACKEND_DESCRIPTOR
    MATMUL_COMP_TYPE = 1500 DATA_TYPE
    MATMUL_PADDING_VALUE = 1503 DOUBLE
    OPERATION_MATMUL_ADESC = 1520 BACKEND_DESCRIPTOR
    OPERATION_MATMUL_BDESC = 1521 BACKEND_DESCRIPTOR
    OPERATION_MATMUL_CDESC = 1522 BACKEND_DESCRIPTOR
    OPERATION_MATMUL_DESC = 1523 BACKEND_DESCRIPTOR
    OPERATION_MATMUL_GEMM_M_OVERRIDE_DESC = 1525 BACKEND_DESCRIPTOR
    OPERATION_MATMUL_GEMM_N_OVERRIDE_DESC = 1526 BACKEND_DESCRIPTOR
    OPERATION_MATMUL_GEMM_K_OVERRIDE_DESC = 1527 BACKEND_DESCRIPTOR
    REDUCTION_OPERATOR = 1600 REDUCTION_OPERATOR_TYPE
    REDUCTION_COMP_TYPE = 1601 DATA_TYPE
    OPERATION_REDUCTION_XDESC = 1610 BACKEND_DESCRIPTOR
    OPERATION_REDUCTION_YDESC = 1611 BACKEND_DESCRIPTOR
    OPERATION_REDUCTION_DESC = 1612 BACKEND_DESCRIPTOR
    OPERATION_RESHAPE_XDESC = 2200 BACKEND_DESCRIPTOR
    OPERATION_RESHAPE_YDESC = 2201 BACKEND_DESCRIPTOR
    DEVICEPROP_JSON_REPRESENTATION = 2702 CHAR
}

/// A `cudnnDataType_t`.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub(super) enum Data {
    F32 = 0,
    I32 = 4,
    Bf16 = 9,
    Boolean = 11,
}

/// A `cudnnPointwiseMode_t`.
#[derive(Clone, Copy)]
#[repr(i32)]
pub(super) enum Pointwise {
    Add = 0,
    Mul = 1,
    Div = 6,
    Sub = 9,
    Exp = 13,
    Log = 15,
    Identity = 21,
    NotLess = 303,
    Less = 304,
    And = 400,
    Index = 501,
    Select = 601,
}

/// A `cudnnReduceTensorOp_t`.
#[derive(Clone, Copy)]
#[repr(i32)]
pub(super) enum Reduce {
    Add = 0,
    Max = 3,
}

/// `CUDNN_HEUR_MODE_A`: configurations of engines, the fastest first.
pub(super) const HEUR_MODE_A: i32 = 3;
/// `CUDNN_KNOB_TYPE_STAGES`.
pub(super) const KNOB_STAGES: i32 = 14;
