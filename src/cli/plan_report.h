#pragma once

#include <string>

#include "ringwise/planner.h"

// How `ringwise plan` shows what it found.
namespace ringwise {

struct PlanReport {
  std::string model;  // as the user named it
  PlanOptions options;
  double token_budget = 0;  // of --tokens; 0: none
  Plan plan;
};

void PrintPlanTable(const PlanReport& report);
void PrintPlanJson(const PlanReport& report);  // one line

}  // namespace ringwise
