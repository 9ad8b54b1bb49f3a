"""The progress of a run, on a terminal or in a log.

==============  =================================================================================
`showing`       views of a session, and a thread that keeps one up to date
`status`        groups and tasks in a line of text
`counting`      how many tasks there are, and how long the rest will take
`terminal`      lines that stay at the bottom of a terminal
==============  =================================================================================
"""
