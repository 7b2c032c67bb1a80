"""Function-preserving widening of any network along a space of its graph."""

from gmn_opt.widening.copies import WidenError
from gmn_opt.widening.growth import Growth
from gmn_opt.widening.widen import Plan, plan_widening, widen

__all__ = ["Growth", "Plan", "WidenError", "plan_widening", "widen"]
