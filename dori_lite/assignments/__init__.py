"""Three assignments that check and grade themselves: what is asked, what is checked, and how a class is graded.

    from dori_lite.assignments import a1
    a1.check("magnitude", magnitude, a1.PRACTICE)

Questions and canaries are drawn from a private seed and a student's name; the book has a solved practice variant.
"""
