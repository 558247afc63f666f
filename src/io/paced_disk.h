#pragma once
// An AsyncDisk that keeps to a Pacer: blocks are handed to another disk when their turn comes, and a transfer is done when that disk and its last turn are.

#include <memory>

#include "io/async_disk.h"
#include "io/pacer.h"

namespace flexgen {

std::unique_ptr<AsyncDisk> make_paced_disk(std::unique_ptr<AsyncDisk> disk, std::shared_ptr<Pacer> pacer);

}  // namespace flexgen
