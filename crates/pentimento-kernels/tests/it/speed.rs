use pentimento_kernels::{Precision, fastest_precision, measure_precision};

use crate::on_each_isa;

#[test]
fn speeds_are_measured_in_milliseconds() {
    on_each_isa(|isa| {
        let speeds = Precision::ALL.map(measure_precision);
        println!("{isa:?}: {speeds:.1?} GFLOP/s; {:?} was found faster", fastest_precision());
        assert!(speeds.iter().all(|speed| speed.is_finite() && *speed > 0.0));
    });
}
