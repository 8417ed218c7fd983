"""The face detector, tracker, landmark network and expression encoder of the released FantasyPortrait."""
