#pragma once

namespace ringwise {

// Whether this CPU has AMX tiles with bf16 products, the system lets this process use them (Linux
// gives their 8 KiB of registers on request; asked once), and no limit on instructions is set. For
// code that is dispatched by hand.
bool MayUseAmx();

}  // namespace ringwise
