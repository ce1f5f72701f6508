//! What is known before a run begins: who comes when, what is asked, what strikes.

use atoll_proto::plan::PlanPolicy;
use atoll_proto::{Command, Input, Request, RequestId};

use super::{Happening, MODEL, ORIGIN, World, id, model, policy};

impl World<'_> {
    pub(super) fn begin(&mut self) {
        let schedule = self.schedule;
        for (i, device) in schedule.devices.iter().enumerate() {
            self.own(0, i, Input::Command(Command::Measured(device.profile())));
            for peer in self.around.of(i).into_iter().take_while(|peer| *peer < i) {
                self.own(device.joins_us, i, Input::Discovered { peer: id(peer) });
            }
        }
        let policy = PlanPolicy { rule: self.rule, ..policy(schedule) };
        let serve = Command::Serve { model: model(schedule), policy };
        self.own(schedule.placement.at_us, ORIGIN, Input::Command(serve));
        for (i, asked) in (0_u64..).zip(&schedule.requests) {
            let request = Request {
                id: RequestId(i),
                model: MODEL,
                session: self.session(RequestId(i)),
                prompt: asked.prompt.clone(),
                max_tokens: asked.max_tokens,
                stop_tokens: Vec::new(),
                prefill_chunk: schedule.model.prefill_chunk,
                sampling: Vec::new(),
                deadline_us: asked.deadline_us,
            };
            self.own(asked.at_us, ORIGIN, Input::Command(Command::Generate(request)));
        }
        for (i, fault) in schedule.faults.iter().enumerate() {
            self.push(fault.at_us, Happening::Fault(i));
        }
        self.push(schedule.heal_us, Happening::Heals);
    }
}
